"""What every dataset shares: splits, tokenization, loaders."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datamodules.batching import EvalCollator, TrainCollator
from datamodules.chat import chat_template, end_of_turn, prompt_text
from datamodules.encoding import Encoding
from datamodules.errors import UserError
from datamodules.files import record_digests
from datamodules.leaks import compare_with_test, count_repeats, report_repeats
from datamodules.lengths import as_table, length_report, longest_records
from datamodules.loading import (
    Batches,
    EpochSampler,
    LengthSampler,
    ResumableLoader,
    TokenBudgetSampler,
)
from datamodules.records import Record
from datamodules.shipped import locate
from datamodules.special_tokens import prepare_tokenizer
from datamodules.splitting import Split, hold_out
from datamodules.tokenization import encode


class InstructionDataModule(LightningDataModule):
    """Instructions and responses, with a fixed validation split of the training data.

    A dataset is a subclass with `train_records` and `test_records`; all else is here. Records
    are read, checked and tokenized in `setup`, before any weights are loaded.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        encoding: How records become tokens.
        batch_size: Training examples per batch.
        tokens_per_batch: Instead of `batch_size`, how many tokens a training batch has at most,
            padding not counted: where nothing is padded (`packed_sdpa`), batches take about equal
            time and memory, whatever the lengths of the examples.
        eval_batch_size: Examples per batch in validation, test and predict.
        split: Which training examples are held out for validation.
        protocol: Name of the published protocol that the settings follow, for the results.
        num_workers: Loader processes.
        tokenizer_revision: Branch, tag or commit of the tokenizer on the Hub; the command line
            takes the backbone's.
        leaks: What to do with training questions that occur in the test data: `report` their number
            and names, or `drop` them as well.
        tokenizer_gguf_file: Name of the GGUF file that holds the tokenizer; the command line takes
            the backbone's.
    """

    shuffle = True

    def __init__(  # noqa: PLR0913 - each is a key of the YAML
        self,
        tokenizer: str,
        encoding: Encoding = Encoding(),
        batch_size: int = 16,
        tokens_per_batch: int | None = None,
        eval_batch_size: int = 32,
        split: Split = Split(),
        protocol: str | None = None,
        num_workers: int = 0,
        tokenizer_revision: str | None = None,
        leaks: Literal["report", "drop"] = "report",
        tokenizer_gguf_file: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("tokens_per_batch", tokens_per_batch),
        ):
            if value is not None and value < 1:
                raise UserError(f"data.{name} is {value}: expected at least 1")
        if num_workers < 0:
            raise UserError(f"data.num_workers is {num_workers}: expected at least 0")
        self.tokenizer_path = tokenizer
        self.tokenizer_revision = tokenizer_revision
        self.tokenizer_gguf_file = tokenizer_gguf_file
        self.encoding = encoding
        self.batch_size = batch_size
        self.tokens_per_batch = tokens_per_batch
        self.eval_batch_size = eval_batch_size
        self.held_out = split
        self.protocol = protocol
        self.num_workers = num_workers
        self.leaks = leaks
        self.stop_token_ids: Sequence[int] = ()
        self._records: dict[str, Sequence[Record]] = {}
        self._encoded: dict[str, Dataset] = {}
        self._reports: dict[str, dict[str, Any]] = {}
        self._training_files: dict[Path, str] = {}

    def train_records(self) -> list[Record]:
        """Read the training data, validation included; prompts are not yet in the template."""
        raise NotImplementedError

    def test_records(self) -> list[Record]:
        """Read the test data."""
        raise NotImplementedError

    def records_to_keep_out(self) -> list[Record]:
        """Read the test records that training questions are compared with; empty for none."""
        # A dataset without test data has nothing to keep out.
        own = type(self).test_records is not InstructionDataModule.test_records
        return self.test_records() if own else []

    def setup(self, stage: str) -> None:
        """Read, check and tokenize what a stage needs."""
        if not hasattr(self, "tokenizer"):
            self.tokenizer = self._load_tokenizer()
        if stage in {"fit", "validate"} and "val" not in self._records:
            train, val = self.split(self._training_data())
            self._add("val", val)
            if stage == "fit":
                self._add("train", train)
        if stage in {"test", "predict"} and "test" not in self._records:
            test = self.test_records()
            self._count_repeats("test", test)
            self._add("test", test)

    def split(self, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """Hold out the validation examples.

        Args:
            records: The training data.

        Returns:
            What is left to train on, in the order of the data, and the validation examples.

        Raises:
            UserError: If there are not more records than validation examples.
        """
        return hold_out(records, self.held_out, "data.split.size")

    def train_dataloader(self) -> DataLoader:
        """Training batches, shuffled unless the order of the data matters."""
        rows = self._encoded["train"].select_columns(["input_ids", "labels"])
        if self.tokens_per_batch is not None:
            return ResumableLoader(
                Batches(rows),
                batch_size=None,
                sampler=self._token_budget_sampler(self.tokens_per_batch),
                **self._loader_settings(TrainCollator),
            )
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
        """Count examples and tokens by split and task, what was cut, repeats and leaks."""
        return dict(self._reports)

    def longest_sequences(self, split: str) -> dict[str, tuple[int, str]]:
        """Find the longest sequences of a split.

        Args:
            split: `train`, `val` or `test`, after `setup`.

        Returns:
            Number of tokens and id of the record, of the longest `example` (prompt and response)
            and, where the split is generated from, of the longest `prompt`; where it has
            candidates, of the longest `candidate` with its prompt.
        """
        return longest_records(self._encoded[split], self._records[split])

    def ids_of(self, batch: Mapping[str, Any]) -> list[str]:
        """Find the training examples of a batch by their tokens.

        Batches have tensors only, so every example is compared: slow, for error messages.

        Args:
            batch: A training batch.

        Returns:
            One id per row; of examples with equal tokens the first one's.
        """
        rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        wanted = [tuple(ids[mask.bool()].tolist()) for ids, mask in rows]
        found: dict[tuple[int, ...], str] = {}
        encoded = self._encoded["train"].data.column("input_ids")
        for record, ids in zip(self._records["train"], encoded, strict=True):
            key = tuple(ids.as_py())
            if key in wanted:
                found.setdefault(key, record["id"])
        return [found.get(key, "?") for key in wanted]

    def describe_protocol(self) -> dict[str, Any]:
        """Describe the evaluation protocol as resolved: template, loss mask, lengths, split."""
        return {
            "name": self.protocol,
            "encoding": asdict(self.encoding),
            "split": asdict(self.held_out),
            # Dropping changes what is trained on and which records are held out.
            **({"leaks": "drop"} if self.leaks == "drop" else {}),
            **self._describe_chat(),
        }

    def training_files(self) -> dict[str, str]:
        """Identify the files that the training examples depend on, after `setup`.

        Returns:
            SHA-256 by the name of a file: its path relative to the attribute `path`, if the
            datamodule has one and the file is in it. Datasets on the Hub, and files that were read
            without `datamodules.files` or `datamodules.sources`, are not included.
        """
        folder = getattr(self, "path", None)

        def name(path: Path) -> str:
            if folder is not None and path.is_relative_to(folder):
                return path.relative_to(folder).as_posix()
            return path.as_posix()

        return {name(path): digest for path, digest in self._training_files.items()}

    def _describe_chat(self) -> dict[str, str]:
        """Identify the chat template, which belongs to the tokenizer, after `setup`."""
        if not (self.encoding.is_chat and hasattr(self, "tokenizer")):
            return {}
        template = chat_template(self.tokenizer)
        return {"chat_template": hashlib.sha256(template.encode()).hexdigest()}

    def _training_data(self) -> list[Record]:
        with record_digests() as self._training_files:
            records = self.train_records()
        self._count_repeats("train_and_val", records)
        with record_digests() as test_files:
            leaks = compare_with_test(records, self.records_to_keep_out, self.leaks)
        self._reports["leaks"] = leaks
        if self.leaks == "drop":
            self._training_files |= test_files
            records = [record for record in records if record["id"] not in leaks["found"]]
            if not records:
                raise UserError(
                    "data.leaks is drop, and every training question occurs in the test data: "
                    "expected other test data, or report"
                )
        return records

    def _count_repeats(self, name: str, records: Sequence[Record]) -> None:
        counts = count_repeats(records)
        self._reports.setdefault("repeats", {})[name] = counts
        report_repeats(name, counts)

    def _add(self, name: str, records: Sequence[Record]) -> None:
        self._records[name] = records
        self._encoded[name] = encode(
            records, self.tokenizer, self.encoding, for_generation=name != "train"
        )
        self._reports[name] = length_report(self._encoded[name], records)
        rank_zero_info(f"{name}: {as_table(self._reports[name])}")

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            file = self.tokenizer_gguf_file
            tokenizer = AutoTokenizer.from_pretrained(
                locate(self.tokenizer_path),
                revision=self.tokenizer_revision,
                **({} if file is None else {"gguf_file": file}),
            )
        except Exception as error:  # a damaged file makes its readers raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"no tokenizer at {self.tokenizer_path!r} ({reason})") from error
        prepare_tokenizer(tokenizer, self.encoding)
        if self.encoding.is_chat:
            self.stop_token_ids = end_of_turn(tokenizer)
        return tokenizer

    def _token_budget_sampler(self, tokens: int) -> TokenBudgetSampler:
        lengths = [len(ids) for ids in self._encoded["train"].data.column("input_ids")]
        longest = max(range(len(lengths)), key=lambda index: lengths[index])
        if lengths[longest] > tokens:
            raise UserError(
                f"data.tokens_per_batch is {tokens}, but training example "
                f"{self._records['train'][longest]['id']} has {lengths[longest]} tokens: expected "
                "at least as many"
            )
        return TokenBudgetSampler(lengths, tokens, torch.initial_seed(), shuffle=self.shuffle)

    def _eval_loader(self, name: str) -> DataLoader:
        rows = _WithRecords(self._encoded[name], self._records[name], self.encoding, self.tokenizer)
        return DataLoader(
            rows,
            batch_size=self.eval_batch_size,
            sampler=LengthSampler(
                self._encoded[name].data.column("eval_length").to_pylist(), self.eval_batch_size
            ),
            **self._loader_settings(EvalCollator),
        )

    def _loader_settings(self, collator: type[TrainCollator]) -> dict[str, Any]:
        return {
            "collate_fn": collator(self.tokenizer.pad_token_id),
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }


class _WithRecords(torch.utils.data.Dataset):
    """Tokenized rows, each with its record, whose prompt is the text that the model sees."""

    def __init__(
        self,
        encoded: Dataset,
        records: Sequence[Record],
        encoding: Encoding,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.encoded = encoded
        self.records = records
        self.encoding = encoding
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        if self.encoding.is_chat:
            prompt = prompt_text(record, self.tokenizer)
        else:
            prompt = self.encoding.eval_prompt(record["prompt"])
        return self.encoded[index] | {"record": Record(**{**record, "prompt": prompt})}
