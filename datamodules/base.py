"""The common part of every benchmark: splits, tokenisation, loaders."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datamodules.batching import EvalCollator, TrainCollator
from datamodules.encoding import Encoding, encode, prepare_tokenizer
from datamodules.loading import EpochSampler, ResumableLoader
from datamodules.records import Record


class InstructionDataModule(LightningDataModule):
    """Instructions and responses, with a fixed validation split of the training data.

    A benchmark is a subclass with `train_records` and `test_records`; all else is here. Records
    are read, checked and tokenised in `setup`, before any weights are loaded.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        encoding: How records become tokens.
        batch_size: Training examples per batch.
        eval_batch_size: Examples per batch in validation, test and predict.
        val_size: Number of training examples held out for validation.
        split_seed: Seed of that split, apart from any other seed.
        num_workers: Loader processes.
    """

    shuffle = True

    def __init__(
        self,
        tokenizer: str,
        encoding: Encoding = Encoding(),
        batch_size: int = 16,
        eval_batch_size: int = 32,
        val_size: int = 120,
        split_seed: int = 42,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ValueError(f"data.{name} is {value}: expected at least 1")
        self.tokenizer_path = tokenizer
        self.encoding = encoding
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.num_workers = num_workers
        self._records: dict[str, Sequence[Record]] = {}
        self._encoded: dict[str, Dataset] = {}

    def train_records(self) -> list[Record]:
        """Read the training data, validation included; prompts by `self.encoding.prompt`."""
        raise NotImplementedError

    def test_records(self) -> list[Record]:
        """Read the test data."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Read, check and tokenise what a stage needs."""
        if not hasattr(self, "tokenizer"):
            self.tokenizer = self._load_tokenizer()
        if stage in {"fit", "validate"} and "val" not in self._records:
            train, val = self.split(self.train_records())
            self._add("val", val)
            if stage == "fit":
                self._add("train", train)
        if stage in {"test", "predict"} and "test" not in self._records:
            self._add("test", self.test_records())

    def split(self, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """Hold out the validation examples.

        Args:
            records: The training data.

        Returns:
            What is left to train on, in the order of the data, and the validation examples.

        Raises:
            ValueError: If there are not more records than validation examples.
        """
        if not 1 <= self.val_size < len(records):
            raise ValueError(
                f"data.val_size is {self.val_size}, the training data has {len(records)} records: "
                "expected at least 1 for validation and more than that in all"
            )
        indices = Dataset.from_dict({"index": range(len(records))})
        parts = indices.train_test_split(self.val_size, shuffle=True, seed=self.split_seed)
        return tuple(
            [records[i] for i in sorted(parts[name]["index"])] for name in ("train", "test")
        )  # type: ignore[return-value]

    def train_dataloader(self) -> DataLoader:
        """Training batches, shuffled unless the order of the data is part of it."""
        rows = self._encoded["train"].select_columns(["input_ids", "labels"])
        return ResumableLoader(
            rows,
            batch_size=self.batch_size,
            sampler=EpochSampler(rows, seed=torch.initial_seed()) if self.shuffle else None,
            **self._loader_settings(TrainCollator),
        )

    def val_dataloader(self) -> DataLoader:
        """Validation batches with prompts and records."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Test batches with prompts and records."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Test batches with prompts and records."""
        return self._eval_loader("test")

    def statistics(self) -> dict[str, Any]:
        """Count examples by split and task, and what was cut."""
        counts: dict[str, Any] = {}
        for name, records in self._records.items():
            encoded = self._encoded[name]
            lengths = [len(ids) for ids in encoded["input_ids"]]
            counts[name] = {
                "examples": len(records),
                "by_task": dict(Counter(record["task"] for record in records)),
                "truncated_prompts": sum(n > 0 for n in encoded["num_prompt_cut"]),
                "truncated_responses": sum(n > 0 for n in encoded["num_response_cut"]),
                "mean_tokens": sum(lengths) / len(lengths),
                "max_tokens": max(lengths),
            }
        return counts

    def _add(self, name: str, records: Sequence[Record]) -> None:
        self._records[name] = records
        self._encoded[name] = encode(records, self.tokenizer, self.encoding)
        counts = self.statistics()[name]
        rank_zero_info(
            f"{name}: {counts['examples']} examples, {counts['mean_tokens']:.0f} tokens on "
            f"average, {counts['max_tokens']} at most; {counts['truncated_prompts']} prompts and "
            f"{counts['truncated_responses']} responses truncated"
        )

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_path)
        except (OSError, ValueError) as error:
            reason = str(error).split("\n")[0][:200]
            raise ValueError(f"no tokenizer at {self.tokenizer_path!r} ({reason})") from None
        prepare_tokenizer(tokenizer, self.encoding)
        return tokenizer

    def _eval_loader(self, name: str) -> DataLoader:
        rows = _WithRecords(self._encoded[name], self._records[name])
        settings = self._loader_settings(EvalCollator)
        return DataLoader(rows, batch_size=self.eval_batch_size, **settings)

    def _loader_settings(self, collator: type[TrainCollator]) -> dict[str, Any]:
        return {
            "collate_fn": collator(self.tokenizer.pad_token_id),
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }


class _WithRecords(torch.utils.data.Dataset):
    """Tokenised rows, each with its record."""

    def __init__(self, encoded: Dataset, records: Sequence[Record]) -> None:
        self.encoded = encoded
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.encoded[index] | {"record": self.records[index]}
