"""The command of docs/theory.md, on smaller updates."""

import pytest

from tera_pl.__main__ import main
from tera_pl.theory import approximation

pytestmark = pytest.mark.slow


def test_figures_and_tables(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(approximation, "SIZE", 8)
    monkeypatch.setattr(approximation, "ORDERS", (1, 3))
    assert main(["theory", "--output", str(tmp_path / "figures")]) == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {".tera_pl", "theorem2.png", "theorem3.png"}
    printed = capsys.readouterr().out
    assert "| 4096 x 4096 | 48 | 8,192 | 8,192 | 8,192 | 33,554,432 |" in printed
    rows = [line.split(" | ") for line in printed.splitlines() if "rademacher" in line]
    assert [(row[2], row[3]) for row in rows] == [("2", "16"), ("6", "12")] * 2
    for row in rows:
        reached, bound = float(row[4]), float(row[5].strip(" |"))
        # Tight for this core, up to the digits printed.
        assert 0 < reached <= bound + 0.001 <= 1.001
