"""Print the tables of docs/smollm2_study.md.

python docs/smollm2_study/tables.py collect STUDY_FOLDER ...    # add to runs.csv and losses.csv
python docs/smollm2_study/tables.py                             # print the tables from the two
"""

import csv
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tera_pl.metrics import RecordLoss
from tera_pl.metrics.record_loss import Estimate, loss_per_token
from tera_pl.reporting.record_losses import average_losses, differences, losses_file, read_losses

HERE = Path(__file__).parent
RUNS, LOSSES = HERE / "runs.csv", HERE / "losses.csv"
COLUMNS = (
    "dataset",
    "row",
    "lr",
    "seed",
    "val_loss",
    "test_loss",
    "val_accuracy",
    "test_accuracy",
    "trained",
    "seconds",
    "memory_mb",
)
INTEGERS = ("seed", "trained", "seconds", "memory_mb")
# Two standard errors decide; the registered document has it so.
DECIDES = 2.0


@dataclass(frozen=True)
class Run:
    """One run: its settings, its costs and the validation loss of every record.

    What was not measured is NaN.
    """

    dataset: str
    row: str
    lr: float
    seed: int
    val_loss: float
    test_loss: float
    val_accuracy: float
    test_accuracy: float
    trained: int
    seconds: int
    memory_mb: int
    losses: tuple[RecordLoss, ...]

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What is equal only for a repetition of the run."""
        return self.dataset, self.row, self.lr, self.seed


@dataclass(frozen=True)
class Row:
    """The runs of a method at its best learning rate, one per seed."""

    name: str
    search: dict[float, float]
    runs: dict[int, Run]

    @property
    def lr(self) -> float:
        """The learning rate with the lowest validation loss of the first seed."""
        return min(self.search, key=lambda lr: self.search[lr])


def collect(folders: Sequence[Path]) -> None:
    """Add what is finished in the folders of studies to the two files.

    A run that is in the files already takes the place of the earlier one.

    Args:
        folders: Outputs of `study`; their names start with that of the dataset.
    """
    found = [run for folder in folders for run in _read_study(folder)]
    if not found:
        sys.exit("error: no finished run there: expected output folders of study; nothing written")
    earlier = read() if RUNS.exists() else {}
    by_key = {run.key: run for runs in earlier.values() for run in runs}
    by_key |= {run.key: run for run in found}
    runs = sorted(by_key.values(), key=lambda run: run.dataset)  # stable: of one dataset together
    ids = {run.dataset: [record.id for record in run.losses] for run in reversed(runs)}
    for run in found:
        if [record.id for record in run.losses] != ids[run.dataset]:
            sys.exit(f"error: {run.key}: expected the records of the runs in {LOSSES}, got others")
    with RUNS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(run, name) for name in COLUMNS] for run in runs)
    with LOSSES.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dataset", "id", "tokens", "nll of the runs, in the order of runs.csv"])
        for dataset in dict.fromkeys(run.dataset for run in runs):
            of_runs = [run.losses for run in runs if run.dataset == dataset]
            for records in zip(*of_runs, strict=True):
                nll = [f"{record.nll:.6g}" for record in records]
                writer.writerow([dataset, records[0].id, records[0].tokens, *nll])


def _read_study(folder: Path) -> Iterator[Run]:
    for path in sorted(folder.glob("*/lr*-seed*/version_*/results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        if "fit" not in results:
            continue
        lr, seed, _ = path.parts[-3].removeprefix("lr").rsplit("-", 2)
        fit, resources = results["fit"], results["fit"]["resources"]
        test = results.get("test", {}).get("scores", {})
        yield Run(
            dataset=folder.name.partition("_")[0],
            row=path.parts[-4],
            lr=float(lr),
            seed=int(seed.removeprefix("seed")),
            val_loss=fit["scores"]["val/loss"],
            test_loss=test.get("test/loss", math.nan),
            val_accuracy=fit["scores"].get("val/accuracy", math.nan),
            test_accuracy=test.get("test/accuracy", math.nan),
            trained=resources["trained"],
            seconds=round(resources["train_seconds"]),
            memory_mb=round(resources["peak_memory_bytes"] / 2**20),
            losses=tuple(read_losses(path.parent / losses_file("fit"))),
        )


def read() -> dict[str, list[Run]]:
    """Read the two files.

    Returns:
        The runs by dataset.
    """
    with RUNS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    records: dict[str, list[list[str]]] = defaultdict(list)
    with LOSSES.open(newline="", encoding="utf-8") as file:
        for dataset, *values in list(csv.reader(file))[1:]:
            records[dataset].append(values)
    found: dict[str, list[Run]] = defaultdict(list)
    for row in rows:
        dataset = row["dataset"]
        place = 2 + len(found[dataset])
        losses = [RecordLoss(v[0], float(v[place]), int(v[1])) for v in records[dataset]]
        values = {name: float(row[name]) for name in COLUMNS[2:]}
        integers = {name: int(values.pop(name)) for name in INTEGERS}
        run = Run(dataset, row["row"], losses=tuple(losses), **integers, **values)
        found[dataset].append(run)
    return found


def as_rows(runs: Sequence[Run]) -> list[Row]:
    """Group the runs on a dataset by method, each at its best learning rate."""
    rows = []
    for name in dict.fromkeys(run.row for run in runs):
        own = [run for run in runs if run.row == name]
        first = min(run.seed for run in own)
        search = {run.lr: run.val_loss for run in own if run.seed == first}
        row = Row(name, dict(sorted(search.items())), {})
        rows.append(Row(name, row.search, {r.seed: r for r in own if r.lr == row.lr}))
    return rows


def difference(row: Row, other: Row) -> tuple[Estimate, int]:
    """The difference of two methods on equal records and seeds, and the number of these seeds.

    Its standard error is the larger of that over seeds and that over records.
    """
    seeds = sorted(row.runs.keys() & other.runs.keys())
    pairs = [differences(row.runs[s].losses, other.runs[s].losses) for s in seeds]
    over_records = loss_per_token(*_columns(average_losses(pairs)))
    values = [loss_per_token(*_columns(pair)).value for pair in pairs]
    errors = [over_records.se or 0.0]
    if len(values) > 1:
        errors.append(statistics.stdev(values) / math.sqrt(len(values)))
    return Estimate(statistics.mean(values), max(errors)), len(seeds)


def _columns(losses: Sequence[RecordLoss]) -> tuple[list[float], list[int]]:
    return [row.nll for row in losses], [row.tokens for row in losses]


def print_tables(dataset: str, runs: Sequence[Run]) -> None:
    """Print the search, the losses and the differences from TeRA and LoRA on one dataset."""
    rows = as_rows(runs)
    lines = [f"### {dataset}", ""]
    lines += ["| | parameters | search: rate, validation loss of the first seed |", "|---|---|---|"]
    for row in rows:
        searched = ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in row.search.items())
        trained = next(iter(row.runs.values())).trained
        lines.append(f"| {row.name} | {trained:,} | {searched} |")
    head = ["", "rate", "seeds", "validation loss", "over records", "over seeds", "test loss"]
    scored = any(not math.isnan(run.val_accuracy) for run in runs)
    head += ["accuracy, validation and test"] if scored else []
    references = [row for name in ("tera", "lora") for row in rows if row.name == name]
    head += [f"minus {row.name}" for row in references]
    lines += ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        values = [run.val_loss for run in row.runs.values()]
        records = average_losses([run.losses for run in row.runs.values()])
        sd = f"± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        cells = [row.name, f"{row.lr:g}", str(len(values)), f"{statistics.mean(values):.4f}"]
        cells += [f"± {loss_per_token(*_columns(records)).se:.4f}", sd]
        cells.append(_mean(row, "test_loss", ".4f"))
        if scored:
            accuracies = [_mean(row, name, ".1%") for name in ("val_accuracy", "test_accuracy")]
            cells.append(", ".join(filter(None, accuracies)))
        cells += [_compare(row, reference) for reference in references]
        lines.append(f"| {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n\n")


def _mean(row: Row, name: str, form: str) -> str:
    """The mean over the runs that have it, or nothing."""
    values = [getattr(run, name) for run in row.runs.values()]
    known = [value for value in values if not math.isnan(value)]
    return f"{statistics.mean(known):{form}}" if known else ""


def _compare(row: Row, reference: Row) -> str:
    if row is reference:
        return ""
    found, seeds = difference(row, reference)
    if found.se is None or not seeds:
        return ""
    decided = "worse" if found.value > 0 else "better"
    verdict = decided if abs(found.value) > DECIDES * found.se else "undecided"
    return f"{found.value:+.4f} ± {found.se:.4f}, {seeds} seed{'s' * (seeds > 1)}: {verdict}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["collect"]:
        collect([Path(name) for name in sys.argv[2:]])
    else:
        for name, found in read().items():
            print_tables(name, found)
