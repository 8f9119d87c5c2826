"""The command writes a page from run directories and lists those it omits."""

import csv
import json

import pytest

from tera_pl.__main__ import main
from tera_pl.errors import UserError
from tera_pl.reporting.groups import group_runs
from tera_pl.reporting.layouts import layout_for
from tera_pl.reporting.runs import read_runs
from tera_pl.reporting.tables import make_table
from tests.checkpointing.hostile import damaged_content
from tests.reporting.run_folders import write_run
from tests.soak import more

MATH = {"accuracy/AQuA": 0.3, "accuracy/SVAMP": 0.7}


def report(folder, *options):
    assert main(["report", str(folder / "runs"), "--output", str(folder / "out"), *options]) == 0
    return (folder / "out" / "report.md").read_text()


def test_page_has_tables_versions_command_and_failed_runs(tmp_path):
    for seed in (0, 1):
        write_run(
            tmp_path / "runs" / f"tera-{seed}", MATH, method="TeRA", seed=seed, dataset="Math10k"
        )
    write_run(tmp_path / "runs" / "world", {"accuracy": 0.5}, dataset="MiniWorld", backbone="b")
    failed = write_run(tmp_path / "runs" / "failed", {})
    (failed / "results.json").unlink()
    page = report(tmp_path)
    assert "Table 4: accuracy on AQuA and SVAMP, meta-llama/Meta-Llama-3-8B" in page
    assert "| TeRA | 1,000 | 0.1 | 2 | 30.00 ± 0.00 | 30.71 [1] |" in page
    assert "MiniWorld: test scores, b" in page
    assert f"python -m tera_pl report {tmp_path}/runs --output {tmp_path}/out" in page
    assert "torch 2.13.0" in page
    assert "A100" in page
    assert "`optimizer.lr`: 0.01" in page
    assert (tmp_path / "out" / "miniworld-b-score_by_trainable_params.png").exists()
    assert "](miniworld-b-score_by_trainable_params.png)" in page
    assert "`spectra`: no run has singular_values.npz" in page
    assert f"no results.json: failed, or not finished\n\n- `{failed}`" in page
    with (tmp_path / "out" / "math10k-meta-llama-meta-llama-3-8b.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows["TeRA"]["SVAMP"]) == pytest.approx(70)
    assert float(rows["HiRA (r=32; q, v)"]["SVAMP_published"]) == 72.8
    assert rows["HiRA (r=32; q, v)"]["SVAMP"] == ""


def test_differences_from_the_paper_are_listed(tmp_path):
    write_run(tmp_path / "runs" / "a", {"accuracy": 0.5}, dataset="MiniWorld", backbone="b")
    page = report(tmp_path)
    assert "The paper does not use MiniWorld." in page
    assert "The base model is b, not Llama-2-7b-hf or Meta-Llama-3-8B." in page
    assert "Seeds per method: 1" in page
    assert "warmup_steps`" not in page.split("### Settings")[0]


def test_different_protocols_are_refused_unless_allowed(tmp_path, capsys):
    other = {"generation": {"num_beams": 1}}
    write_run(tmp_path / "runs" / "a", MATH, dataset="Math10k")
    write_run(tmp_path / "runs" / "b", MATH, dataset="Math10k", seed=1, protocol=other)
    out = tmp_path / "out"
    assert main(["report", str(tmp_path / "runs"), "--output", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "protocol.generation.num_beams: 4 | 1" in message
    assert not out.exists()
    page = report(tmp_path, "--allow_mixed")
    assert "- `protocol.generation.num_beams`: 4 | 1" in page
    assert "| LoRA | 1,000 | 0.1 | 2 |" in page


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.json", "{", "results.json is damaged: Expecting property name"),
        ("results.json", "[1]", "results.json is damaged: it is '[1]': expected a mapping"),
        ("results.json", '{"test": 3}', "results.json is damaged: test is '3'"),
        ("config.yaml", "a: [", "config.yaml"),
        ("config.yaml", "trainer: 3", "config.yaml is damaged: trainer is '3'"),
        ("ranks.csv", "step\nmany\n", "ranks.csv is damaged: no step of a row"),
    ],
)
def test_damaged_file_is_one_line_that_names_it(name, text, message, tmp_path, capsys):
    run = write_run(tmp_path / "runs" / "a", {"accuracy": 0.5}, dataset="MiniWorld", backbone="b")
    (run / name).write_text(text)
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(run) in line
    assert message in line


def test_changed_entries_of_results_are_one_line_or_a_table(tmp_path):
    run = write_run(tmp_path / "runs" / "a", MATH, dataset="Math10k")
    path = run / "results.json"
    complete = json.loads(path.read_text())
    refused = 0
    for what, damaged in damaged_content(complete, seed=0, count=more(200)):
        path.write_text(json.dumps(damaged))
        try:
            (found,), _ = read_runs([tmp_path / "runs"])
            groups = group_runs([found])
            make_table(groups, layout_for(found.dataset, [found]), {})
        except UserError as error:
            refused += 1
            assert "\n" not in str(error), what  # noqa: PT017
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
    assert refused > 20
