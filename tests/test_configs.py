"""Every shipped YAML parses against the code, and says what it is for."""

import pytest
import yaml

from tera_pl.cli import main
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_parses(path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["fit", "--config", str(path), "--print_config"])
    assert error.value.code == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(path.read_text())
    assert resolved["data"]["class_path"] == given["data"]["class_path"]
    assert resolved["trainer"]["max_steps"] == given["trainer"].get("max_steps", -1)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_header_gives_the_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Run: ") for line in header)
    assert "quickstart" in path.name or any(str(path.relative_to(ROOT)) in line for line in header)


def test_there_are_configs():
    assert CONFIGS
