"""MiniWorld as datamodules: the questions, and the documents its base is pretrained on."""

from collections.abc import Sequence
from typing import Any

from datamodules.base import InstructionDataModule
from datamodules.encoding import Encoding
from datamodules.miniworld.documents import documents
from datamodules.miniworld.questions import questions
from datamodules.records import Record
from datamodules.splitting import Split


class MiniWorld(InstructionDataModule):
    """Questions about a small invented world, in the forms of the commonsense sub-tasks.

    The base model that comes with it has read about every entity. Fine-tuning asks about some of
    them, in a format the base has never answered in; the test asks about the others.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        num_train: Number of training records, validation included.
        num_test: Number of test records.
        seed: Seed of the questions.
        **settings: What every dataset has.
    """

    def __init__(
        self,
        tokenizer: str,
        num_train: int = 8000,
        num_test: int = 500,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, **settings)
        self.num_train = num_train
        self.num_test = num_test
        self.seed = seed

    def train_records(self) -> list[Record]:
        """Ask about the training entities."""
        return self._records_of(questions("train", self.num_train, self.seed))

    def test_records(self) -> list[Record]:
        """Ask about the test entities."""
        return self._records_of(questions("test", self.num_test, self.seed))

    def _records_of(self, drawn: Sequence[dict[str, Any]]) -> list[Record]:
        return [
            Record(
                prompt=item["prompt"],
                response=item["response"],
                task=item["task"],
                reference=item["reference"],
                choices=item["choices"],
                id=item["id"],
            )
            for item in drawn
        ]


class MiniWorldPretraining(InstructionDataModule):
    """Documents about MiniWorld, to pretrain its base: all tokens supervised, one pass in order.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        num_documents: Number of documents.
        seed: Seed of the documents.
        batch_size: Documents per batch.
        val_size: Number of documents for validation, of another seed, like the curriculum's last.
    """

    # The order of the documents is a curriculum, from few people and wordings to all.
    shuffle = False

    def __init__(
        self,
        tokenizer: str,
        num_documents: int = 64_000,
        seed: int = 0,
        batch_size: int = 16,
        val_size: int = 120,
    ) -> None:
        encoding = Encoding(template="{instruction}", loss_on="all")
        super().__init__(
            tokenizer,
            encoding,
            batch_size,
            eval_batch_size=batch_size,
            split=Split(val_size),
        )
        self.num_documents = num_documents
        self.val_size = val_size
        self.seed = seed

    def train_records(self) -> list[Record]:
        """Write the documents."""
        return _as_records(documents(self.num_documents, self.seed), f"train-{self.seed}")

    def split(self, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """Validate on documents of another seed, so that none is taken out of the curriculum."""
        seed = self.seed + 1
        texts = documents(self.val_size, seed, curriculum=False)
        return list(records), _as_records(texts, f"val-{seed}")


def _as_records(texts: Sequence[str], name: str) -> list[Record]:
    return [
        Record(
            prompt="",
            response=text,
            task="document",
            reference=text,
            choices=None,
            id=f"document-{name}-{index}",
        )
        for index, text in enumerate(texts)
    ]
