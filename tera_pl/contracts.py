"""What this package expects of datamodules, batches, records and metrics.

`datamodules` and `tera_pl` do not import each other. mypy checks that the datamodules and metrics
of this repository meet these types (`tests/contracts.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from typing_extensions import ReadOnly

from tera_pl.errors import UserError


class Candidate(TypedDict):
    """One of the answers that a record is chosen from by its likelihood.

    `answer` is compared with the record's `reference`, and `continuation` is the text whose
    likelihood after the prompt counts.
    """

    answer: ReadOnly[str]
    continuation: ReadOnly[str]


class Record(TypedDict):
    """One example of a dataset, as generated answers are scored against it.

    `prompt` is the text that the model saw, `reference` what its answer is compared with, `choices`
    the labels to choose from (None for free text), `task` the sub-task that scores are grouped by,
    and `id` names the file and the record. A metric of likelihoods needs `candidates`.
    """

    id: ReadOnly[str]
    task: ReadOnly[str]
    prompt: ReadOnly[str]
    reference: ReadOnly[str | list[str]]
    choices: ReadOnly[list[str] | None]
    candidates: NotRequired[ReadOnly[Sequence[Candidate]]]


class TrainBatch(TypedDict):
    """A batch with a loss: integer tensors of shape `(batch, length)`, padded on the right.

    Labels of -100 are not supervised.
    """

    input_ids: ReadOnly[Tensor]
    attention_mask: ReadOnly[Tensor]
    labels: ReadOnly[Tensor]


class PromptBatch(TypedDict):
    """Prompts to answer: integer tensors of shape `(batch, length)`, padded on the left."""

    prompt_input_ids: ReadOnly[Tensor]
    prompt_attention_mask: ReadOnly[Tensor]


class EvalBatch(TrainBatch, PromptBatch):
    """A batch with a loss, its prompts, and one record per row.

    `candidates` has a row for every candidate of the first record, then of the second, and so on;
    its labels are the tokens that are scored.
    """

    records: ReadOnly[Sequence[Record]]
    candidates: NotRequired[ReadOnly[TrainBatch]]


@runtime_checkable
class Encoding(Protocol):
    """The settings of a datamodule's tokenization that results report and `estimate` uses."""

    @property
    def template(self) -> str:
        """Template of the prompts in training."""

    @property
    def loss_on(self) -> str:
        """`response` or `all`: which tokens of an example are supervised."""

    @property
    def max_length(self) -> int:
        """Longest training example in tokens."""

    @property
    def max_response_length(self) -> int | None:
        """Longest response in tokens, if limited."""

    @property
    def max_eval_prompt_length(self) -> int | None:
        """Longest prompt in generation in tokens, if limited."""


class DataModule(Protocol):
    """What a run reads of a LightningDataModule, apart from its dataloaders.

    Its loaders give a `TrainBatch` in training and an `EvalBatch` elsewhere. Every part here is
    optional: `complete` takes missing ones from `PlainDataModule`.
    """

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the batches, after `setup`; it must be that of the backbone."""

    @property
    def stop_token_ids(self) -> Sequence[int]:
        """Tokens that end a generated answer besides the end-of-sequence token, after `setup`."""

    @property
    def encoding(self) -> Encoding | None:
        """Settings of the tokenization."""

    @property
    def batch_size(self) -> int | None:
        """Training examples per batch."""

    @property
    def tokens_per_batch(self) -> int | None:
        """Most tokens of a training batch, where batches have a budget of tokens."""

    @property
    def eval_batch_size(self) -> int | None:
        """Examples per batch in validation, test and predict."""

    def describe_protocol(self) -> dict[str, Any] | None:
        """Describe what scores depend on; checkpoints are compared by it."""

    def training_files(self) -> Mapping[str, str]:
        """Give the SHA-256 of the files of training data by name; resuming compares them."""

    def statistics(self) -> dict[str, Any] | None:
        """Count examples and tokens for `results.json`."""

    def longest_sequences(self, split: str) -> Mapping[str, tuple[int, str]]:
        """Give tokens and record id of a split's longest sequences, if known.

        They are its `example`, its `prompt` and its `candidate`, the last with its prompt.
        """

    def ids_of(self, batch: TrainBatch) -> Sequence[str]:
        """Name the examples of a training batch, for a message."""


class PlainDataModule:
    """Defaults of the optional parts of a datamodule.

    Without `describe_protocol` and `training_files`, checkpoints are not compared by their data;
    without `tokenizer`, it is not compared with that of the backbone; without `longest_sequences`,
    a sequence longer than the model's positions is not refused; without `stop_token_ids`, answers
    end at the end-of-sequence token alone; without `encoding` and
    `batch_size`, `estimate` needs `--length` and `--batch`. Without the others, `results.json` has
    no statistics, and messages cannot name the examples of a batch.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    stop_token_ids: Sequence[int] = ()
    encoding: Encoding | None = None
    batch_size: int | None = None
    tokens_per_batch: int | None = None
    eval_batch_size: int | None = None

    def describe_protocol(self) -> dict[str, Any] | None:
        """Return None: scores depend on nothing that is known."""
        return None

    def training_files(self) -> Mapping[str, str]:
        """Return no files."""
        return {}

    def statistics(self) -> dict[str, Any] | None:
        """Return None: nothing was counted."""
        return None

    def longest_sequences(self, split: str) -> Mapping[str, tuple[int, str]]:
        """Return no lengths."""
        return {}

    def ids_of(self, batch: TrainBatch) -> Sequence[str]:
        """Return a placeholder for the ids."""
        return ["an unnamed batch"]


def complete(datamodule: object) -> DataModule:
    """Add the optional parts that a datamodule lacks.

    Args:
        datamodule: The trainer's datamodule, or None.

    Returns:
        An object with every part; those of the datamodule where it has them.
    """
    completed = PlainDataModule()
    for name in vars(PlainDataModule):
        if not name.startswith("_") and hasattr(datamodule, name):
            setattr(completed, name, getattr(datamodule, name))
    # Other datamodules may use these names for something else: the encoding of a file, a path.
    if not isinstance(completed.encoding, Encoding):
        completed.encoding = None
    if not isinstance(completed.tokenizer, PreTrainedTokenizerBase):
        completed.tokenizer = None
    return completed


def check_batch(
    batch: Mapping[str, Any], datamodule: object, *, answered: bool, by_likelihood: bool = False
) -> None:
    """Refuse a batch that lacks a field.

    Args:
        batch: A batch of the datamodule.
        datamodule: The trainer's datamodule, for the message.
        answered: Whether its prompts are answered and its records scored.
        by_likelihood: Whether its candidates are scored instead of its prompts answered.

    Raises:
        UserError: If a field of `TrainBatch`, or of `EvalBatch` where prompts are answered, is
            missing.
    """
    if answered and by_likelihood and "candidates" not in batch:
        raise UserError(
            f"data: the records of {type(datamodule).__name__} have no candidates, whose "
            "likelihoods model.init_args.metric scores: expected data that has them (form: cloze "
            "in Commonsense170k), or a metric of generated answers"
        )
    expected = (EvalBatch if answered else TrainBatch).__required_keys__
    missing = sorted(expected - batch.keys())
    if not missing and answered and by_likelihood:
        rows = len(batch["candidates"]["labels"])
        number = sum(len(record.get("candidates", ())) for record in batch["records"])
        if rows != number:
            raise UserError(
                f"data: a batch of {type(datamodule).__name__} has {rows} rows of candidates, but "
                f"its records have {number} candidates: expected a row for each"
            )
    if not missing and answered:
        fields = Record.__required_keys__ - {"choices"}  # only some metrics need them
        missing = [
            f"records[{index}].{key}"
            for index, record in enumerate(batch["records"])
            for key in sorted(fields - record.keys())
        ]
    if missing:
        raise UserError(
            f"data: a batch of {type(datamodule).__name__} has no {', '.join(missing[:3])}: "
            f"expected {', '.join(sorted(expected))}, as tera_pl.contracts describes them"
        )


@runtime_checkable
class Metric(Protocol):
    """A torchmetrics.Metric that scores generated answers."""

    def names(self) -> Sequence[str]:
        """List the scores that `compute` always gives."""

    def judge(self, output: str, record: Record) -> Mapping[str, Any]:
        """Extract and score one answer, for `predictions.jsonl`."""

    def update(self, outputs: Sequence[str], records: Sequence[Record]) -> None:
        """Add answers and their records."""

    def compute(self) -> Mapping[str, Tensor]:
        """Give the scores by name."""

    def reset(self) -> None:
        """Remove all answers."""


class ScoredCandidate(NamedTuple):
    """The log-likelihood of a candidate's continuation, in nats, and its number of tokens."""

    log_likelihood: float
    num_tokens: int


@runtime_checkable
class LikelihoodMetric(Protocol):
    """A torchmetrics.Metric that scores the likelihoods of candidates; nothing is generated."""

    @property
    def scores_candidates(self) -> Literal[True]:
        """Mark the metric: its outputs are scored candidates instead of texts."""

    def names(self) -> Sequence[str]:
        """List the scores that `compute` always gives."""

    def judge(self, output: Sequence[ScoredCandidate], record: Record) -> Mapping[str, Any]:
        """Choose a candidate and score the choice, for `predictions.jsonl`."""

    def update(
        self, outputs: Sequence[Sequence[ScoredCandidate]], records: Sequence[Record]
    ) -> None:
        """Add the scored candidates of records."""

    def compute(self) -> Mapping[str, Tensor]:
        """Give the scores by name."""

    def reset(self) -> None:
        """Remove all records."""


@runtime_checkable
class IncompleteMetric(Metric, Protocol):
    """A metric that may lack scores, for example without a model that it would download."""

    @property
    def missing(self) -> Mapping[str, str]:
        """Give the reason for each score that `compute` could not give."""
