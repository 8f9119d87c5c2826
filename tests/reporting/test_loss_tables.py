"""Losses of runs against numbers worked out by hand."""

import csv
import io
import math

import pytest

from tera_pl.__main__ import main
from tera_pl.metrics import RecordLoss
from tera_pl.reporting.groups import group_runs
from tera_pl.reporting.layouts import layout_for
from tera_pl.reporting.loss_tables import loss_rows, losses_to_csv, losses_to_markdown
from tera_pl.reporting.record_losses import losses_file, write_losses
from tera_pl.reporting.runs import read_runs
from tera_pl.reporting.selections import best_groups
from tera_pl.reporting.tables import make_table
from tests.reporting.run_folders import write_run

TOKENS = {"a": 2, "b": 4, "c": 6}


def run_with(folder, nll, stage="test", **settings):
    loss = sum(nll) / sum(TOKENS.values())
    scores = {"loss": loss, "loss_se": 9.0, "perplexity": math.exp(loss)}
    path = write_run(folder, scores, dataset="X", backbone="b", **settings)
    rows = zip(TOKENS.items(), nll, strict=True)
    write_losses(path / losses_file(stage), [RecordLoss(n, v, t) for (n, t), v in rows])
    return path


def rows_of(folder):
    return {row.group.method: row for row in loss_rows(group_runs(read_runs([folder])[0]))}


def test_seeds_are_averaged_by_record_and_methods_paired(tmp_path):
    run_with(tmp_path / "0", [2.0, 8.0, 12.0], seed=0)
    run_with(tmp_path / "1", [4.0, 8.0, 14.0], seed=1)
    run_with(tmp_path / "2", [2.0, 6.0, 10.0], method="TeRA")
    found = rows_of(tmp_path)
    lora, tera = found["LoRA"], found["TeRA"]
    # Means 3, 8, 13 over 12 tokens: R = 2, residuals -1, 0, 1.
    assert lora.loss == pytest.approx((2.0, math.sqrt(3 / 2 * 2) / 12))
    assert lora.sd == pytest.approx(math.sqrt(2) * (26 - 22) / 12 / 2)
    # Differences 1, 2, 3 over 12 tokens: R = 0.5, no residuals, whatever the errors of each.
    assert lora.difference == pytest.approx((0.5, 0.0))
    assert tera.difference == (0.0, 0.0)
    assert tera.loss.value == 1.5
    page = losses_to_markdown([lora])
    assert "| LoRA | test, 3 | 2 | 2.0000 ± 0.1443 | ± 0.2357 | 7.389 ± 1.067 |" in page
    (line, _) = csv.DictReader(io.StringIO(losses_to_csv([lora, tera])))
    assert (line["records"], line["supervised_tokens"], line["seeds"]) == ("3", "12", "2")
    assert float(line["perplexity_se"]) == pytest.approx(math.exp(2) * lora.loss.se)


def test_without_losses_of_records_the_scores_of_one_run_stand(tmp_path):
    (run_with(tmp_path / "0", [2.0, 8.0, 14.0]) / "losses_test.csv").unlink()
    run_with(tmp_path / "1", [3.0, 8.0, 14.0], method="TeRA")
    found = rows_of(tmp_path)
    assert found["LoRA"].loss == (2.0, 9.0)
    assert found["LoRA"].difference is found["TeRA"].difference is None


def test_other_records_are_not_paired(tmp_path):
    run_with(tmp_path / "0", [2.0, 8.0, 14.0])
    path = run_with(tmp_path / "1", [3.0, 8.0, 14.0], method="TeRA")
    write_losses(path / "losses_test.csv", [RecordLoss("other", 25.0, 12)])
    assert rows_of(tmp_path)["TeRA"].difference is None


def test_of_losses_the_lowest_is_best(tmp_path):
    run_with(tmp_path / "0", [2.0, 8.0, 14.0], lr=0.1)
    run_with(tmp_path / "1", [2.0, 8.0, 10.0], lr=0.2)
    run_with(tmp_path / "2", [2.0, 8.0, 12.0], method="TeRA")
    runs, _ = read_runs([tmp_path])
    layout, groups = layout_for("X", runs), group_runs(runs)
    assert [column.name for column in layout.columns] == ["loss"]
    table = make_table(groups, layout, [])
    ranks = {row.label: table.rank(row, layout.headline) for row in table.rows}
    assert ranks == {"LoRA (lr=0.1)": None, "LoRA (lr=0.2)": 1, "TeRA": 2}
    best = best_groups(groups, layout.headline)
    assert {group.label for group in best} == {"LoRA (lr=0.2)", "TeRA"}


def test_without_the_scores_of_its_table_a_dataset_has_its_loss(tmp_path):
    write_run(tmp_path / "0", {"loss": 2.0}, dataset="ConvAI2")
    (run,), _ = read_runs([tmp_path])
    layout = layout_for("ConvAI2", [run])
    assert [column.name for column in layout.columns] == ["loss"]
    assert layout.headline.axis_label == "loss, nats per token"
    write_run(tmp_path / "1", {"loss": 2.0, "bleu": 1.0}, dataset="ConvAI2", seed=1)
    layout = layout_for("ConvAI2", read_runs([tmp_path])[0])
    assert layout.headline.axis_label == "average, %"


def test_losses_are_in_the_report_and_damage_is_one_line(tmp_path, capsys):
    path = run_with(tmp_path / "runs" / "0", [2.0, 8.0, 14.0])
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    assert "### Loss and perplexity" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "x-b-losses.csv").exists()
    (path / "losses_test.csv").write_text("id,nll,tokens\na,many,2\n")
    capsys.readouterr()
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "new")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "losses_test.csv is damaged: could not convert string to float" in line
