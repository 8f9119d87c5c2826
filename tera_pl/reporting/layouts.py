"""The scores that the table of a dataset shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from tera_pl.reporting.runs import Run

# In nats per supervised token, with standard errors over records.
LOSS_SCORES = ("loss", "loss_se", "perplexity", "perplexity_se")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: Its name among published scores.
        title: Its title in the table.
        scores: Names of the test scores whose mean it is.
        factor: Factor that converts it to percent.
        lower_is_better: Whether a method with a lower score is better.
    """

    name: str
    title: str
    scores: tuple[str, ...]
    factor: float = 100.0
    lower_is_better: bool = False

    @property
    def axis_label(self) -> str:
        """Label of an axis, with the unit."""
        return f"{self.title}, {'nats per token' if self.name == 'loss' else '%'}"

    def value(self, run: Run) -> float | None:
        """Compute the score of a run in percent, or None if one of the scores is missing."""
        found = [run.scores.get(name) for name in self.scores]
        values = [value for value in found if value is not None]
        if not values or len(values) < len(found):
            return None
        return self.factor * sum(values) / len(values)


@dataclass(frozen=True)
class Layout:
    """Columns of a table and the score of figures.

    Args:
        title: Its title.
        columns: Its columns.
        headline: The score that figures show.
        decimals: Digits after the decimal point.
    """

    title: str
    columns: tuple[Column, ...]
    headline: Column
    decimals: int = 2


def layout_for(dataset: str, runs: Sequence[Run]) -> Layout:
    """Choose the layout of a dataset.

    Args:
        dataset: Class name of the datamodule.
        runs: Its runs, whose scores are the columns of a dataset that the paper does not use.

    Returns:
        The layout of the paper's table 2, 3 or 4, if a run has one of its scores; otherwise
        accuracies by sub-task or what other scores there are, or else the loss.
    """
    known = _LAYOUTS.get(dataset)
    names = {name for column in known.columns for name in column.scores} if known else set()
    if known and any(names & run.scores.keys() for run in runs):
        return known
    return _generic(dataset, runs)


def _accuracy(name: str, title: str) -> Column:
    return Column(name, title, (f"accuracy/{name}",))


def _mean(columns: Sequence[Column], title: str) -> Column:
    scores = tuple(name for column in columns for name in column.scores)
    return Column("average", title, scores, columns[0].factor)


def _generic(dataset: str, runs: Sequence[Run]) -> Layout:
    # Losses have a table of their own.
    names = dict.fromkeys(name for run in runs for name in run.scores if name not in LOSS_SCORES)
    tasks = [n.removeprefix("accuracy/") for n in names if n.startswith("accuracy/")]
    if "accuracy" in names:
        headline = Column("accuracy", "accuracy", ("accuracy",))
        columns = (headline, *(_accuracy(task, task) for task in tasks))
    else:
        # All scores, unscaled.
        columns = tuple(Column(name, name, (name,), 1.0) for name in names)
        columns = columns or (Column("loss", "loss", ("loss",), 1.0, lower_is_better=True),)
        headline = columns[0]
    return Layout(f"{dataset}: test scores", columns, headline, 1 if tasks else 2)


_TABLE_2 = tuple(
    _accuracy(*names)
    for names in (
        ("boolq", "BoolQ"),
        ("piqa", "PIQA"),
        ("social_i_qa", "SIQA"),
        ("hellaswag", "HellaSwag"),
        ("winogrande", "WinoGrande"),
        ("ARC-Easy", "ARC-e"),
        ("ARC-Challenge", "ARC-c"),
        ("openbookqa", "OBQA"),
    )
)
_TABLE_3 = tuple(
    Column(name, title, (name,), 1.0)
    for name, title in (
        ("bleu", "BLEU"),
        ("bertscore_f1", "BERT F1"),
        ("bertscore_recall", "BERT R"),
        ("bertscore_precision", "BERT P"),
        ("meteor", "METEOR"),
        ("rouge_l", "ROUGE-L"),
    )
)
_TABLE_4 = (_accuracy("AQuA", "AQuA"), _accuracy("SVAMP", "SVAMP"))
_AVERAGE_2, _AVERAGE_3 = _mean(_TABLE_2, "average"), _mean(_TABLE_3, "average")
_LAYOUTS = {
    "Commonsense170k": Layout(
        "Table 2: accuracy on the Commonsense170k tasks", (*_TABLE_2, _AVERAGE_2), _AVERAGE_2
    ),
    "ConvAI2": Layout("Table 3: scores on ConvAI2", (*_TABLE_3, _AVERAGE_3), _AVERAGE_3),
    "Math10k": Layout(
        "Table 4: accuracy on AQuA and SVAMP", _TABLE_4, _mean(_TABLE_4, "mean of AQuA and SVAMP")
    ),
}
