"""The entry point lists and finds commands without the imports that running one needs."""

import pkgutil
import subprocess
import sys
import tomllib

import pytest

import tera_pl.commands
from tera_pl.__main__ import main
from tera_pl.cli import TeraCLI
from tera_pl.commands import COMMANDS, TRAINER_COMMANDS
from tests.conftest import ROOT

HEAVY = {"torch", "lightning", "transformers", "peft", "jsonargparse", "numpy", "matplotlib"}
UNKNOWN = {
    "exprt": "did you mean export or report?",
    "fitt": "did you mean fit?",
    "learning-rates": "did you mean learning_rates?",
    "xyz": f"expected {', '.join([*TRAINER_COMMANDS, *COMMANDS])}",
}


def test_tables_name_every_command():
    modules = {module.name for module in pkgutil.iter_modules(tera_pl.commands.__path__)}
    assert modules - {"arguments"} == COMMANDS.keys()
    assert TeraCLI.subcommands().keys() == TRAINER_COMMANDS.keys()


def test_help_has_a_line_for_every_command(capsys):
    assert main(["--help"]) == main(["-h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, text in (TRAINER_COMMANDS | COMMANDS).items():
        assert sum(line.split() == [name, *text.split()] for line in lines) == 2
        assert len(text) < 80
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() * 2 == lines
    assert not captured.out


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_command_is_one_line_and_exit_2(name, capsys):
    assert main([name, "--config", "a.yaml"]) == 2
    expected = f"error: unknown command {name!r}: {UNKNOWN[name]} (see --help)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("args", [["--help"], [], ["exprt"]])
def test_neither_help_nor_an_unknown_command_imports_what_commands_need(args):
    code = (
        f"import sys; from tera_pl.__main__ import main; main({args}); "
        f"sys.exit(sorted({HEAVY} & sys.modules.keys()) or None)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_console_script_is_the_same_function():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"tera-pl": "tera_pl.__main__:main"}
    assert pkgutil.resolve_name(project["scripts"]["tera-pl"]) is main


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_is_written_for_the_command_line(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m tera_pl {name} ")
    assert COMMANDS[name] in " ".join(text.split())
    for word in ("Args:", "Returns:", "Raises:", "`"):
        assert word not in text


def test_arguments_of_the_process_are_the_default(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tera-pl", "exprt"])
    assert main() == 2
    assert "'exprt'" in capsys.readouterr().err


def test_ctrl_c_during_the_imports_is_one_line(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tera_pl.__main__._run", interrupt)
    assert main(["theory"]) == 130
    assert capsys.readouterr().err == "stopped: interrupted\n"
    monkeypatch.setenv("TERA_PL_DEBUG", "1")
    with pytest.raises(KeyboardInterrupt):
        main(["theory"])
