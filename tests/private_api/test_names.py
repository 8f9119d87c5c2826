"""Private names of libraries are used in `tera_pl.private_api` and nowhere else."""

import ast
import importlib
import inspect
import pkgutil

import tera_pl
from tera_pl.private_api.lightning import OVERRIDDEN
from tests.conftest import ROOT

FILES = sorted(
    path for package in ("tera_pl", "datamodules") for path in (ROOT / package).rglob("*.py")
)
# PEFT's tuners consist of private methods: tests/adapters/test_peft_private.py lists those in use.
EXEMPT = ("tera_pl/private_api/", "tera_pl/adapters/", "tera_pl/analysis/merged_layers.py")


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def parse(path):
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def defined(path):
    """Private names that a file defines."""
    for node in parse(path):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            # `self._x = ...`, while `library_object._x = ...` is a use.
            if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}:
                yield node.attr
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def used(path):
    """Private names that a file imports or reads from an object."""
    for node in parse(path):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            yield from (*parts, *(alias.name for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))


def test_private_names_are_gathered():
    own = {name for path in FILES for name in defined(path)}
    found = {path.relative_to(ROOT).as_posix(): sorted(set(used(path)) - own) for path in FILES}
    private = {
        path: names
        for path, others in found.items()
        if not path.startswith(EXEMPT) and (names := [n for n in others if is_private(n)])
    }
    assert not private


def overrides():
    """Private methods of library classes that a class outside of the exempt rooms overrides."""
    for info in pkgutil.walk_packages(tera_pl.__path__, "tera_pl."):
        if f"{info.name.replace('.', '/')}/".startswith(EXEMPT) or info.name.endswith("__main__"):
            continue
        for cls in vars(importlib.import_module(info.name)).values():
            if not inspect.isclass(cls) or cls.__module__ != info.name:
                continue
            theirs = [base for base in cls.__mro__ if not base.__module__.startswith("tera_pl")]
            for name in filter(is_private, vars(cls)):
                if inspect.isfunction(vars(cls)[name]) and any(
                    name in vars(base) for base in theirs if base is not object
                ):
                    yield name


def test_every_override_of_a_private_method_is_on_the_list():
    assert set(overrides()) == OVERRIDDEN.keys()


def test_product_code_has_no_mocks():
    for path in FILES:
        assert "mock" not in set(used(path)), path
