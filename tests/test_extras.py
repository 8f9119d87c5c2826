"""Optional packages: a missing one is one line that names the extra which installs it."""

import importlib.metadata
import sys
import tomllib
from importlib.machinery import ModuleSpec

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tera_pl.cli import guard
from tera_pl.errors import UserError
from tera_pl.extras import EXTRAS, describe_missing, is_installed, require
from tests.attempts import attempt
from tests.conftest import ROOT

MODULES = [(extra, module) for extra, modules in EXTRAS.items() for module in modules]


class Blocked:
    """A finder that refuses some packages, as an environment that lacks them."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, *args: object) -> ModuleSpec | None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def test_extras_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    distributions = importlib.metadata.packages_distributions()
    for extra, modules in EXTRAS.items():
        wanted = {canonicalize_name(Requirement(line).name) for line in extras[extra]}
        found = {canonicalize_name(name) for module in modules for name in distributions[module]}
        assert found == wanted
    assert extras["all"] == [f"tera-pl[{','.join(EXTRAS)}]"]
    assert extras.keys() - {"all"} == EXTRAS.keys()


@pytest.mark.parametrize(("extra", "module"), MODULES)
@pytest.mark.parametrize("absent", ["never imported", "set to None"])
def test_a_missing_package_is_a_line_with_its_extra(extra, module, absent, monkeypatch, capsys):
    assert is_installed(module)
    if absent == "set to None":
        monkeypatch.setitem(sys.modules, module, None)
    else:
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Blocked(module), *sys.meta_path])
    assert not is_installed(module)
    line = f'{module}, which is not installed: pip install "tera-pl[{extra}]"'
    with pytest.raises(UserError) as error:
        require(module, "some.key")
    assert str(error.value) == f"some.key needs {line}"
    # An import inside of a command.
    assert guard(lambda: __import__(module)) == 2
    assert capsys.readouterr().err == f"error: this command needs {line}\n"


def test_other_missing_modules_are_internal_errors():
    assert describe_missing("no_such_module") == ""
    with pytest.raises(ModuleNotFoundError):
        guard(lambda: __import__("no_such_module"))


def test_scores_of_dialogue_are_refused_before_weights_are_loaded(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nltk", None)
    config = str(ROOT / "configs" / "examples" / "convai2_stories260k.yaml")
    code, errors, _ = attempt(["fit", "--config", config], capsys)
    (error,) = errors
    assert code == 2
    assert error.startswith(
        "error: model.init_args.metric (DialogueScores): a dialogue score needs"
    )
    assert error.endswith('nltk, which is not installed: pip install "tera-pl[text]"')
