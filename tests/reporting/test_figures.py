"""Figures show the numbers of the runs, and say what the runs lack."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from tera_pl.errors import UserError
from tera_pl.reporting import figures, selections
from tera_pl.reporting.drawing import method_style, save
from tera_pl.reporting.groups import NAMES, group_runs
from tera_pl.reporting.layouts import layout_for
from tera_pl.reporting.runs import read_runs
from tests.reporting.run_folders import write_ranks, write_run

WORLD = {"dataset": "MiniWorld", "backbone": "b"}


def groups_of(folder):
    runs, _ = read_runs([folder])
    return group_runs(runs), layout_for("MiniWorld", runs).headline


def log_scalars(folder, tag, values):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(folder)
    for step, value in enumerate(values):
        writer.add_scalar(tag, value, step)
    writer.close()


def lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


@pytest.fixture
def folder(tmp_path):
    """TeRA with two seeds and another split, its identity variant, LoRA; one LoRA scores less."""
    ranks = {"q_proj": [10, 20], "v_proj": [5, 7]}
    for seed in (0, 1):
        run = write_run(
            tmp_path / f"tera{seed}",
            {"accuracy": 0.6 + seed / 5},
            method="TeRA",
            seed=seed,
            **WORLD,
        )
        write_ranks(run, {module: [r + 4 * seed for r in v] for module, v in ranks.items()})
        log_scalars(run, "val/loss", [2.0, 1.0 + seed])
        other = {"factor_init": "identity"}
        run = write_run(
            tmp_path / f"iden{seed}",
            {"accuracy": 0.5},
            method="TeRA",
            seed=seed,
            adapter=other,
            **WORLD,
        )
        log_scalars(run, "val/loss", [3.0, 2.0 + seed])
    split = {"out_modes": 4}
    write_run(
        tmp_path / "split", {"accuracy": 0.9}, method="TeRA", adapter=split, trained=50, **WORLD
    )
    for lr, score in ((0.1, 0.8), (0.2, 0.4)):
        run = write_run(tmp_path / f"lora{lr}", {"accuracy": score}, lr=lr, **WORLD)
        write_ranks(run, {"q_proj": [4, 4]})
    return tmp_path


def test_ranks_are_means_over_seeds_at_the_last_step(folder):
    groups, _ = groups_of(folder)
    (tera,) = (group for group in groups if group.method == "TeRA" and len(group.runs) == 2)
    assert selections.mean_ranks(tera) == {"q_proj": ([12, 22], 64), "v_proj": ([7, 9], 64)}
    figure = figures.draw_ranks({"TeRA": tera}, by_method=True)
    q_proj, v_proj = figure.axes
    assert lines(q_proj)["TeRA"] == [12, 22]
    assert lines(v_proj)["TeRA"] == [7, 9]
    assert [64, 64] in lines(q_proj).values()


def test_one_method_is_on_whole_layers_and_the_markers_of_many_do_not_cover_each_other(folder):
    groups, _ = groups_of(folder)
    tera = next(g for g in groups if g.method == "TeRA" and selections.mean_ranks(g))
    (line, *_) = figures.draw_ranks({"TeRA": tera}, by_method=True).axes[0].get_lines()
    assert list(line.get_xdata()) == [0, 1]
    figure = figures.draw_ranks({f"TeRA{i}": tera for i in range(11)}, by_method=True)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    marked = [line for line in axes.get_lines() if line.get_label().startswith("TeRA")]
    points = axes.transData.transform([(x, 0) for line in marked for x in line.get_xdata()])
    gaps = np.diff(np.sort(points[:, 0])) * 72 / figure.dpi
    assert len(gaps) == 2 * 11 - 1
    assert gaps.min() >= marked[0].get_markersize()


def test_the_best_setting_of_a_method_is_drawn_large(folder):
    groups, headline = groups_of(folder)
    axes = figures.draw_scores(groups, headline).axes[0]
    sizes = {
        (float(x), float(y)): points.get_sizes()[0]
        for points in axes.collections
        if isinstance(points, PathCollection)
        for x, y in points.get_offsets()
    }
    lora = {y: size for (_, y), size in sizes.items() if round(y) in (80, 40)}
    assert lora[min(lora)] < lora[max(lora)]


def test_one_setting_of_a_method_is_drawn_the_best(folder):
    groups, headline = groups_of(folder)
    best = {group.method: group for group in selections.best_groups(groups, headline)}
    assert best["LoRA"].fields["optimizer.lr"] == 0.1
    assert best["TeRA"].fields["adapter.out_modes"] == 4


def test_tensorizations_are_those_of_otherwise_equal_settings(folder):
    groups, headline = groups_of(folder)
    splits = selections.tensorizations_of(groups, headline)
    assert {name: len(group.runs) for name, group in splits.items()} == {"2 x ?": 2, "4 x ?": 1}
    axes = figures.draw_tensorizations(splits, headline).axes[0]
    points = sorted(
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.get_lines()
        if line.get_marker() not in ("|", "_", "None")
    )
    assert points == [(50, pytest.approx(90)), (1000, pytest.approx(70))]


def test_ranks_below_mode_sizes_are_not_a_tensorization(folder):
    ranks = {"modes_pattern": {"q_proj": {"ranks": [4, 8]}}}
    write_run(folder / "ranks", {"accuracy": 0.9}, method="TeRA", adapter=ranks, **WORLD)
    assert set(selections.tensorizations_of(*groups_of(folder))) == {"2 x ?", "4 x ?"}
    sides = {"modes_pattern": {"v_proj": {"out_modes": 4}}}
    write_run(folder / "sides", {"accuracy": 0.9}, method="TeRA", adapter=sides, **WORLD)
    assert "2 x ? v_proj.out_modes=4" in selections.tensorizations_of(*groups_of(folder))


def test_one_learning_rate_of_a_tensorization_is_drawn_the_best(folder):
    split = {"out_modes": 4}
    for lr, score in ((0.1, 0.95), (0.2, 0.2)):
        run = {"adapter": split, "lr": lr, "method": "TeRA"}
        write_run(folder / f"rate{lr}", {"accuracy": score}, **run, **WORLD)
    splits = selections.tensorizations_of(*groups_of(folder))
    assert splits.keys() == {"2 x ?", "4 x ?"}
    assert splits["4 x ?"].fields["optimizer.lr"] == 0.1


@pytest.mark.parametrize(
    ("modes", "order"),
    [("1 x 1", 2), ("4 x 2", 6), ("[8,16] x 1", 3), ("2 x ?", None), ("2 x 1 v.in_modes=3", None)],
)
def test_order_is_the_number_of_modes(modes, order):
    assert selections.order_of(modes) == order


def test_of_two_pairs_the_one_with_more_curves_is_drawn(folder):
    for name, other in (("plain", {}), ("other", {"factor_init": "identity"})):
        adapter = {"out_modes": 8} | other
        run = write_run(folder / name, {"accuracy": 1}, method="TeRA", adapter=adapter, **WORLD)
        for tag in ("val/loss", "val/accuracy"):
            log_scalars(run, tag, [0.25, 0.5])
    axes = figures.draw_curves(groups_of(folder)[0]).axes
    assert [panel.get_ylabel() for panel in axes] == ["val/loss", "val/accuracy"]


def test_curves_are_means_of_the_seeds(folder):
    groups, _ = groups_of(folder)
    (axes,) = figures.draw_curves(groups).axes
    assert lines(axes)["TeRA"] == [2.0, 1.5]
    assert lines(axes)["TeRA_iden"] == [3.0, 2.5]
    assert axes.get_ylabel() == "val/loss"


def test_curves_come_from_a_csv_file_too(tmp_path):
    for name, other in (("plain", {}), ("other", {"factor_init": "identity"})):
        run = write_run(tmp_path / name, {"accuracy": 1}, method="TeRA", adapter=other, **WORLD)
        text = "lr,step,val/loss\n0.1,1,\n,2,0.5\n,4,0.25\n"
        (run / "metrics.csv").write_text(text)
    (axes,) = figures.draw_curves(groups_of(tmp_path)[0]).axes
    assert lines(axes)["TeRA"] == [0.5, 0.25]
    (run / "metrics.csv").write_text("step,val/loss\n,0.5\n")
    with pytest.raises(UserError, match=r"metrics\.csv.*no step"):
        figures.draw_curves(groups_of(tmp_path)[0])


def test_spectra_are_over_the_largest_value(folder):
    groups, _ = groups_of(folder)
    figure = figures.draw_spectra(
        [group for group in groups if group.method in ("LoRA", "TeRA") and group.runs[0].ranks]
    )
    values = lines(figure.axes[0])["TeRA"]
    np.testing.assert_allclose(values, np.linspace(1, 5e-10, 64), atol=1e-12)


def test_a_missing_figure_has_its_reason(tmp_path):
    write_run(tmp_path / "a", {"accuracy": 0.5}, method="TeRA", **WORLD)
    groups, headline = groups_of(tmp_path)
    found = {drawing.name: drawing for drawing in figures.draw_all(groups, headline)}
    assert found.pop("score_by_trainable_params").figure is not None
    assert all(drawing.figure is None and drawing.missing for drawing in found.values())
    assert "singular_values.npz" in found["spectra"].missing


def test_no_two_methods_look_the_same():
    methods = ["TeRA", "TeRA_iden", "DoRA", "full fine-tuning", *NAMES.values()]
    looks = {tuple(method_style(method).items()) for method in methods}
    assert len(looks) == len(set(methods))
    assert len({look[1] for look in looks}) == len(looks)


def test_files_are_the_same_bytes_for_the_same_figure(folder, tmp_path):
    groups, headline = groups_of(folder)
    for name in ("one", "two"):
        save(figures.draw_scores(groups, headline), tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
