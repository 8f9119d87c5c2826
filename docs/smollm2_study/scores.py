"""Print the six scores of dialogue, and how sure their differences are.

    python docs/smollm2_study/scores.py ENCODER PREDICTIONS ...

ENCODER is the folder of all-MiniLM-L6-v2, PREDICTIONS are the files `predictions.jsonl` of tests
with the same records; the others are compared with the first. The last column is the difference of
the average of the five scores that a single answer has, all but BLEU, and its standard error over
the records.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from gradient import print_table, run
from torch import Tensor

from tera_pl.metrics.dialogue_scorers import bleu, load_bert_scorer, meteor, rouge_l

NAMES = "BLEU", "ROUGE-L", "METEOR", "BERTScore P", "R", "F1", "average"


def scores(answers: list[dict[str, Any]], encoder: Any) -> Tensor:
    """All but BLEU of every answer, in percent, shape (answers, 5)."""
    outputs = [answer["extracted"] for answer in answers]
    references = [answer["reference"] for answer in answers]
    pairs = list(zip(outputs, references, strict=True))
    columns = [torch.tensor([rouge_l([a], [b])["rouge_l"] for a, b in pairs])]
    columns.append(torch.tensor([meteor([a], [b])["meteor"] for a, b in pairs]))
    columns += [100 * values for values in encoder.score(outputs, references)]
    return torch.stack(columns, 1).double()


def main(encoder: Path, predictions: list[Path]) -> None:
    """Print a row for every file."""
    scorer = load_bert_scorer(str(encoder), 6, 64, torch.device("cpu"))
    rows: list[list[str]] = []
    first: Tensor | None = None
    records: list[str] = []
    for path in predictions:
        lines = path.read_text(encoding="utf-8").strip("\n").split("\n")
        answers = [json.loads(line) for line in lines]
        answers.sort(key=lambda answer: answer["id"])
        records = records or [answer["id"] for answer in answers]
        if records != [answer["id"] for answer in answers]:
            sys.exit(f"error: {path}: expected the records of {predictions[0]}")
        found = scores(answers, scorer)
        corpus = bleu([a["extracted"] for a in answers], [a["reference"] for a in answers])["bleu"]
        six = [corpus, *found.mean(0).tolist()]
        cells = [f"{value:.1f}" for value in (*six, sum(six) / 6)]
        averages = found.mean(1)
        if first is None:
            first = averages
            rows.append([str(path), *cells, ""])
            continue
        difference = averages - first
        error = float(difference.std() / len(difference) ** 0.5)
        rows.append([str(path), *cells, f"{float(difference.mean()):+.1f} ± {error:.1f}"])
    print_table(["", *NAMES, "minus the first"], rows)


if __name__ == "__main__":
    run(main, __doc__, encoder=None, predictions="+")
