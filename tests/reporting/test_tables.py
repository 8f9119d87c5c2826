"""Tables against numbers worked out by hand."""

import csv
import io
import re

import pytest
import yaml

from tera_pl.reporting.groups import check_same_protocol, group_runs, majority_values
from tera_pl.reporting.layouts import layout_for
from tera_pl.reporting.published import _read, published_for
from tera_pl.reporting.runs import read_runs
from tera_pl.reporting.tables import make_table, to_csv, to_markdown
from tests.reporting.run_folders import write_run

TASKS = ["boolq", "piqa", "social_i_qa", "hellaswag", "winogrande"]
TASKS += ["ARC-Easy", "ARC-Challenge", "openbookqa"]
LLAMA_3 = "/models/Meta-Llama-3-8B"


def eight(*values):
    return {f"accuracy/{task}": v for task, v in zip(TASKS, values, strict=True)}


def table_of(folder, published=()):
    runs, _ = read_runs([folder])
    return make_table(group_runs(runs), layout_for(runs[0].dataset, runs), published)


def cells(markdown):
    """Cells by method and title, marks taken off."""
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_table_2_averages_eight_tasks_and_then_seeds(tmp_path):
    # Averages 0.45 and 0.5625: mean 50.625, deviation 11.25 / sqrt(2) = 7.9550.
    write_run(tmp_path / "0", eight(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), seed=0)
    write_run(tmp_path / "1", eight(1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), seed=1)
    table = table_of(tmp_path)
    (row,) = cells(to_markdown(table)).values()
    assert row["average"] == "50.62 ± 7.95"
    assert row["BoolQ"] == "55.00 ± 63.64"
    assert row["PIQA"] == "20.00 ± 0.00"
    assert (row["trainable parameters"], row["% of all"], row["seeds"]) == ("1,000", "0.1", "2")
    (line,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert float(line["average"]) == pytest.approx(50.625)
    assert float(line["average_sd"]) == pytest.approx(11.25 / 2**0.5)
    assert line["average_published"] == ""


def test_a_missing_score_is_missing_with_its_reason(tmp_path):
    six = {"bleu": 2.0, "bertscore_f1": 84.0, "bertscore_recall": 85.0, "rouge_l": 12.0}
    six |= {"bertscore_precision": 83.0, "meteor": 13.0}
    no_meteor = {k: v for k, v in six.items() if k != "meteor"}
    write_run(tmp_path / "a0", six, dataset="ConvAI2")
    write_run(
        tmp_path / "a1", no_meteor, dataset="ConvAI2", seed=1, missing={"meteor": "no WordNet"}
    )
    write_run(tmp_path / "b0", six, dataset="ConvAI2", method="HiRA")
    markdown = to_markdown(table_of(tmp_path))
    found = cells(markdown)
    assert found["LoRA"]["METEOR"] == found["LoRA"]["average"] == "—"
    assert found["LoRA"]["BLEU"] == "2.00 ± 0.00"
    # Scores of dialogues are percent already; one seed has no deviation.
    assert found["HiRA"]["average"] == f"{(2 + 84 + 85 + 83 + 13 + 12) / 6:.2f}"
    assert f"{tmp_path / 'a1'} has no meteor (no WordNet)" in markdown


def test_a_task_that_was_not_tested_leaves_no_average(tmp_path):
    write_run(tmp_path / "0", {"accuracy/boolq": 0.7, "accuracy_average": 0.7})
    (row,) = cells(to_markdown(table_of(tmp_path))).values()
    assert row["BoolQ"] == "70.00"
    assert row["average"] == row["PIQA"] == "—"


def test_best_and_second_best_adapters_are_marked(tmp_path):
    scores = {"TeRA": 0.70, "LoRA": 0.60, "HiRA": 0.70001, "full": 0.9}
    for method, value in scores.items():
        write_run(
            tmp_path / method,
            {"accuracy/AQuA": value, "accuracy/SVAMP": 0.5},
            method=method,
            dataset="Math10k",
        )
    found = cells(to_markdown(table_of(tmp_path)))
    marked = {name: row["AQuA"] for name, row in found.items()}
    assert marked == {
        "full fine-tuning": "90.00",
        "HiRA": "**70.00**",
        "LoRA": "<u>60.00</u>",
        "TeRA": "**70.00**",
    }
    # All the same: none is best.
    assert {row["SVAMP"] for row in found.values()} == {"50.00"}


def test_published_scores_stand_beside_the_same_method_rank_and_targets_only(tmp_path):
    math = {"accuracy/AQuA": 0.3, "accuracy/SVAMP": 0.7}
    common = {"dataset": "Math10k", "backbone": LLAMA_3}
    write_run(tmp_path / "tera", math, method="TeRA", **common)
    write_run(tmp_path / "hira", math, method="HiRA", **common)
    write_run(tmp_path / "hira1", math, method="HiRA", adapter={"r": 1}, **common)
    markdown = to_markdown(table_of(tmp_path, published_for("Math10k", LLAMA_3)))
    found = cells(markdown)
    assert found["TeRA"]["AQuA, published"] == "30.71 [2]"
    assert found["HiRA (r=32)"]["SVAMP, published"] == "72.80 [1]"
    assert found["HiRA (r=1)"]["SVAMP, published"] == "—"
    assert re.search(r"\[1\] .*0\.79 and 0\.3", markdown)


def test_published_methods_that_were_not_run_have_rows_without_scores(tmp_path):
    write_run(tmp_path / "tera", eight(*[0.5] * 8), method="TeRA", backbone=LLAMA_3)
    published = published_for("Commonsense170k", LLAMA_3)
    found = cells(to_markdown(table_of(tmp_path, published)))
    hira = found["HiRA (r=32; q, v)"]
    assert (hira["BoolQ"], hira["BoolQ, published"], hira["seeds"]) == ("—", "73.09 [2]", "0")
    assert found["TeRA"]["BoolQ, published"] == "—"


def test_published_averages_are_the_means_of_their_cells():
    cells = [({k: v for k, v in row.scores.items() if k != "average"}, row) for row in _read()]
    complete = [(row, parts.values()) for parts, row in cells if len(parts) > 2]
    assert len(complete) == 29
    for row, parts in complete:
        # Both are printed with two decimals.
        assert row.scores["average"] == pytest.approx(sum(parts) / len(parts), abs=0.0101)


def test_other_base_models_have_no_published_scores():
    assert published_for("Math10k", "datamodules/miniworld/base") == []
    assert published_for("MiniWorld", LLAMA_3) == []


def test_settings_are_not_averaged_and_those_that_differ_are_in_the_label(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.2), ("c", 0.1)):
        write_run(tmp_path / name, {"accuracy": 0.5}, lr=lr, seed=int(name == "c"), dataset="X")
    labels = {group.label: len(group.runs) for group in group_runs(read_runs([tmp_path])[0])}
    assert labels == {"LoRA (lr=0.1)": 2, "LoRA (lr=0.2)": 1}


def test_what_most_groups_share_is_in_no_label():
    settings = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 3, "b": 3}]
    majority = majority_values(settings)
    assert majority["a"] == 1
    assert majority["b"] not in (1, 2, 3)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"protocol": {"generation": {"num_beams": 1}}}, "protocol.generation.num_beams: 4 | 1"),
        ({"test_trainer": {"limit_test_batches": 2}}, "test.limit_test_batches: None | 2"),
        ({"test_trainer": {"limit_test_batches": 1}}, "test.limit_test_batches: None | 1"),
    ],
)
def test_another_protocol_is_refused_by_the_name_of_the_field(tmp_path, other, field):
    write_run(tmp_path / "a", {"accuracy": 0.5})
    write_run(tmp_path / "b", {"accuracy": 0.5}, seed=1, **other)
    with pytest.raises(ValueError, match=re.escape(field)):
        check_same_protocol(read_runs([tmp_path])[0])


def test_a_limit_of_1_0_is_the_complete_split(tmp_path):
    write_run(tmp_path / "a", {"accuracy": 0.5})
    write_run(tmp_path / "b", {"accuracy": 0.5}, seed=1, test_trainer={"limit_test_batches": 1.0})
    check_same_protocol(read_runs([tmp_path])[0])


@pytest.mark.parametrize(("key", "value"), [("limit_train_batches", 0.1), ("devices", 2)])
def test_runs_with_other_training_settings_are_not_seeds_of_one_group(tmp_path, key, value):
    for seed in (0, 1):
        run = write_run(tmp_path / str(seed), {"accuracy": 0.5}, seed=seed)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["trainer"][key] = value if seed else None
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert len(group_runs(read_runs([tmp_path])[0])) == 2


def test_a_preset_by_name_and_its_fields_by_hand_are_one_protocol(tmp_path):
    write_run(tmp_path / "a", {"accuracy": 0.5})
    write_run(tmp_path / "b", {"accuracy": 0.5}, seed=1, protocol={"name": "tera_paper"})
    check_same_protocol(read_runs([tmp_path])[0])


def test_runs_without_scores_are_listed_and_a_repeated_seed_counts_once(tmp_path):
    write_run(tmp_path / "run" / "version_9", {"accuracy": 0.1})
    write_run(tmp_path / "run" / "version_10", {"accuracy": 0.2})
    trained = write_run(tmp_path / "trained", {})
    (trained / "results.json").write_text('{"fit": {}}')
    failed = write_run(tmp_path / "failed", {})
    (failed / "results.json").unlink()
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "fit.log").touch()
    runs, omissions = read_runs([tmp_path])
    assert [run.scores for run in runs] == [{"accuracy": 0.2}]
    found = {omission.path.name: omission.reason for omission in omissions}
    assert found["trained"] == "trained, not tested"
    assert found["failed"] == found["early"] == "no results.json: failed, or not finished"
    assert "version_10" in found["version_9"]


def test_no_runs_are_a_user_error(tmp_path):
    with pytest.raises(ValueError, match="no tested run"):
        read_runs([tmp_path])
    with pytest.raises(ValueError, match="no folder"):
        read_runs([tmp_path / "none"])
