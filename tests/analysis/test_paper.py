"""Every table and figure of the paper, from simulated runs of its methods and five seeds.

Expected values are worked out with numpy from the scores that the runs were given.
"""

import csv
import io

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from torch.utils.tensorboard import SummaryWriter

from tera_pl.reporting.figures import draw_all
from tera_pl.reporting.groups import group_runs
from tera_pl.reporting.layouts import layout_for
from tera_pl.reporting.published import published_for
from tera_pl.reporting.runs import read_runs
from tera_pl.reporting.tables import make_table, to_csv, to_markdown
from tests.reporting.run_folders import write_ranks, write_run
from tests.reporting.test_tables import TASKS, cells

LLAMA_2, LLAMA_3 = "meta-llama/Llama-2-7b-hf", "meta-llama/Meta-Llama-3-8B"
SEEDS, LAYERS = 5, 4
DIALOGUE = ["bleu", "bertscore_f1", "bertscore_recall", "bertscore_precision", "meteor", "rouge_l"]
# The names of the scores that a test reports, and what makes them percent.
SCORES = {
    "Commonsense170k": ([f"accuracy/{task}" for task in TASKS], 100),
    "ConvAI2": (DIALOGUE, 1),
    "Math10k": (["accuracy/AQuA", "accuracy/SVAMP"], 100),
}
# The rows of the paper: method, settings, trainable parameters on Llama-2-7B, rank.
ROWS = {
    "Prompt-Tuning": ("Prompt-Tuning", {}, 81_920, None),
    "P-Tuning": ("P-Tuning", {}, 50_000_000, None),
    "LoRA": ("LoRA", {"r": 32}, 16_777_216, 32),
    "HiRA (r=1)": ("HiRA", {"r": 1}, 524_288, 900),
    "HiRA (r=32)": ("HiRA", {"r": 32}, 16_777_216, 3_900),
    "LoRETTA": ("LoRETTA", {}, 315_392, 16),
    "VeRA": ("VeRA", {}, 278_528, 256),
    "TeRA": ("TeRA", {}, 265_216, 4_000),
}
PROMPTS = ("Prompt-Tuning", "P-Tuning")


def simulate(folder, benchmark, backbone, *, with_ranks=False):
    """Write five runs of every row; give their scores in percent, (seeds, scores) by row."""
    rng = np.random.default_rng(0)
    names, factor = SCORES[benchmark]
    scores = {row: 20 + 60 * rng.random((SEEDS, len(names))) for row in ROWS}
    for row, (method, adapter, trained, rank) in ROWS.items():
        for seed in range(SEEDS):
            values = dict(zip(names, scores[row][seed] / factor, strict=True))
            run = write_run(
                folder / f"{row}-{seed}",
                values,
                method=method,
                adapter=adapter,
                seed=seed,
                trained=trained,
                dataset=benchmark,
                backbone=backbone,
            )
            if with_ranks and rank is not None:
                ranks = [rank + seed + layer for layer in range(LAYERS)]
                write_ranks(run, {"q_proj": ranks, "v_proj": ranks[::-1]}, largest=4096)
    return scores


def read(folder):
    runs, _ = read_runs([folder])
    return group_runs(runs), layout_for(runs[0].dataset, runs)


@pytest.mark.parametrize("backbone", [LLAMA_2, LLAMA_3])
@pytest.mark.parametrize(
    ("benchmark", "number"), [("Commonsense170k", 2), ("ConvAI2", 3), ("Math10k", 4)]
)
def test_tables(tmp_path, benchmark, number, backbone):
    scores = simulate(tmp_path, benchmark, backbone)
    groups, layout = read(tmp_path)
    assert layout.title.startswith(f"Table {number}: ")
    published = published_for(benchmark, backbone)
    table = make_table(groups, layout, published)
    shown = cells(to_markdown(table))
    exact = {row["method"]: row for row in csv.DictReader(io.StringIO(to_csv(table)))}
    # Table 4 has no average.
    expected = {
        row: np.column_stack([values, values.mean(1)]) if number < 4 else values
        for row, values in scores.items()
    }
    rivals = [row for row in ROWS if row not in PROMPTS]
    for index, column in enumerate(layout.columns):
        order = sorted(rivals, key=lambda row: -expected[row][:, index].mean())
        for row in ROWS:
            mean, sd = expected[row][:, index].mean(), expected[row][:, index].std(ddof=1)
            assert float(exact[row][column.name]) == pytest.approx(mean)
            assert float(exact[row][f"{column.name}_sd"]) == pytest.approx(sd)
            text = f"{mean:.2f}"
            text = {order[0]: f"**{text}**", order[1]: f"<u>{text}</u>"}.get(row, text)
            assert shown[row][column.title] == f"{text} ± {sd:.2f}"
    for row, (*_, trained, _) in ROWS.items():
        assert (shown[row]["trainable parameters"], shown[row]["seeds"]) == (
            f"{trained:,}",
            str(SEEDS),
        )
    (tera,) = (some for some in published if some.method == "TeRA")
    for score, value in tera.scores.items():
        assert float(exact["TeRA"][f"{score}_published"]) == value


# Modes of Llama-2-7B by side, at the rate that a search chose for each, and their counts.
TENSORIZATIONS = {
    (1, 1): (0.001, 524_288),
    (2, 1): (0.003, 270_336),
    (4, 1): (0.003, 264_192),
    (1, 3): (0.001, 265_216),
    (2, 2): (0.01, 16_384),
    (4, 4): (0.001, 4_096),
}


def simulate_ablations(folder):
    """Tensorizations of TeRA, and TeRA_iden beside TeRA; give the mean averages by modes."""
    means = {}
    for number, ((out, into), (lr, trained)) in enumerate(TENSORIZATIONS.items()):
        values = [0.5 + 0.05 * number, 0.52 + 0.05 * number]
        means[trained] = 100 * np.mean(values)
        for seed, value in enumerate(values):
            run = write_run(
                folder / f"modes {out} {into} {seed}",
                {f"accuracy/{task}": value for task in TASKS},
                method="TeRA",
                adapter={"out_modes": out, "in_modes": into, "scaling": 2.0},
                seed=seed,
                lr=lr,
                trained=trained,
                backbone=LLAMA_2,
            )
            write_ranks(run, {"q_proj": [4000 + number + seed] * LAYERS}, largest=4096)
    for factors in ("normal", "identity"):
        for seed in range(SEEDS):
            run = write_run(
                folder / f"{factors} {seed}",
                {f"accuracy/{task}": 0.3 for task in TASKS},
                method="TeRA",
                adapter={"factor_init": factors, "scaling": 4.0},
                seed=seed,
                backbone=LLAMA_2,
            )
            with SummaryWriter(run) as writer:
                for step in range(4):
                    value = (step + seed) / 10 - (factors == "identity")
                    writer.add_scalar("val/accuracy_average", value, step)
    return means


def points(axes):
    """Points that are drawn with error bars."""
    return {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.get_lines()
        if line.get_marker() not in ("|", "_", "None") and len(line.get_xdata()) == 1
    }


def lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_figures_1_and_3(tmp_path):
    scores = simulate(tmp_path, "Commonsense170k", LLAMA_3, with_ranks=True)
    groups, layout = read(tmp_path)
    figures = {some.name: some.figure for some in draw_all(groups, layout.headline)}
    drawn = figures["score_by_trainable_params"].axes[0].collections
    labels = {mark.get_label() for mark in drawn}
    # The mean over four layers and five seeds is 3.5 above the lowest.
    assert {"TeRA, rank 4004", "HiRA, rank 904 to 3904", "Prompt-Tuning"} <= labels
    marks = [mark for mark in drawn if isinstance(mark, PathCollection)]
    found = {tuple(mark.get_offsets()[0]): mark.get_sizes()[0] for mark in marks}
    expected = {(ROWS[row][2], values.mean()): ROWS[row][3] for row, values in scores.items()}
    assert sorted(found) == [pytest.approx(point) for point in sorted(expected)]
    # The larger the rank, the larger the mark; prompts have none.
    by_size = [found[point] for point in sorted(found)]
    ranks = [expected[point] for point in sorted(expected)]
    # The other setting of HiRA has the smallest mark, whatever its rank.
    worse = min(("HiRA (r=1)", "HiRA (r=32)"), key=lambda row: scores[row].mean())
    other = sorted(expected).index((ROWS[worse][2], scores[worse].mean()))
    assert by_size.pop(other) == min(found.values())
    ranks.pop(other)
    known = [(rank, size) for rank, size in zip(ranks, by_size, strict=True) if rank]
    assert sorted(known) == sorted(known, key=lambda pair: pair[1])

    q_proj, v_proj = figures["ranks"].axes
    best = max(("HiRA (r=1)", "HiRA (r=32)"), key=lambda row: scores[row].mean())
    for method in ("TeRA", "LoRA", "VeRA", "LoRETTA", "HiRA"):
        rank = ROWS[best if method == "HiRA" else method][3]
        # Seeds 0 to 4 have ranks 0 to 4 higher.
        assert lines(q_proj)[method] == [rank + 2 + layer for layer in range(LAYERS)]
        assert lines(v_proj)[method] == lines(q_proj)[method][::-1]
    assert figures["spectra"] is not None


def test_figures_4_to_6(tmp_path):
    means = simulate_ablations(tmp_path)
    groups, layout = read(tmp_path)
    figures = {some.name: some.figure for some in draw_all(groups, layout.headline)}
    by_params, by_order = figures["tensorization_scores"].axes
    assert sorted(points(by_params)) == [pytest.approx(pair) for pair in sorted(means.items())]
    orders = sorted(round(x) for x, _ in points(by_order))
    assert orders == sorted(out + into for out, into in TENSORIZATIONS)

    (axes,) = figures["tensorization_ranks"].axes
    expected = {
        f"{out} x {into}": [4000.5 + number] * LAYERS
        for number, (out, into) in enumerate(TENSORIZATIONS)
    }
    assert {name: lines(axes)[name] for name in expected} == expected

    (axes,) = figures["identity_factors"].axes
    assert axes.get_ylabel() == "val/accuracy_average"
    drawn = {line.get_label(): line for line in axes.get_lines()}
    for method, offset, dashes in (("TeRA", 0, "-"), ("TeRA_iden", -1, "--")):
        assert drawn[method].get_linestyle() == dashes
        expected = [(step + 2) / 10 + offset for step in range(4)]
        np.testing.assert_allclose(drawn[method].get_ydata(), expected, atol=1e-6)
