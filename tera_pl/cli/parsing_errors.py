"""Shorten jsonargparse's messages about command lines and configurations to one line."""

import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from tera_pl.config.setting_checks import check_settings
from tera_pl.private_api.jsonargparse import type_hints

# Lines of a jsonargparse message without information; most occur for every type of a union.
_NOISE = (
    "Does not validate against any of the Union",
    "Subtypes:",
    "Errors:",
    "Given value type",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
    "Problem with given class_path",
    "Subclass types expect one of:",
    "a class path (str)",
    "a dict with",
)
_KEY = re.compile(r'Parser key "(?P<key>[^"]*)"(?: element \d+)?:$')
_CALLABLE = re.compile(r"^Type .* expects a function or a callable class: ")
_EXPECTED = re.compile(
    r"Expected an? (?P<type><class '[^']*'>|typing\.\S.*?)(?:\. Got value: (?P<value>.*))?$"
)
_SUBCLASS = re.compile(
    r"(?:Import path(?: (?P<path>\S+))? does not correspond to a|Not a valid) "
    r"(?P<type>subclass of \w+)(?:\. Got value: (?P<value>.*))?$"
)
_NO_PATH = "Expected a dot import path string: "
_DENIED = re.compile(r"Importing '(?P<path>[^']*)' is not allowed, .*")
_MAX_LENGTH = 600


class Parser(LightningArgumentParser):
    """A parser whose errors are one line, without the usage, which lists hundreds of options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the message in one line and exit with 2."""
        if not self.exit_on_error:
            raise ArgumentError(None, message) from ex
        sys.stderr.write(f"error: {explain(message)} (see --help)\n")
        self.exit(2)

    def instantiate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        """Apply `check_settings` before anything is instantiated."""
        check_settings(namespace, type_hints(self))
        return super().instantiate(namespace, *args, **kwargs)


def explain(message: str) -> str:
    """Shorten a message of jsonargparse to one line that names the full key.

    Args:
        message: The message: a tree with a branch for every type of every union.

    Returns:
        The key, the expected and the given value.
    """
    keys: list[str] = []
    expected: list[str] = []
    reasons: list[str] = []
    given = ""
    for raw in message.splitlines():
        line = _CALLABLE.sub("", raw.strip().removeprefix("- ").strip())
        if match := _KEY.match(line):
            keys.append(match["key"])
        elif not line or line.startswith(_NOISE):
            continue
        elif line.startswith("Given value: "):
            given = given or line.removeprefix("Given value: ")
        elif match := _EXPECTED.match(line):
            expected.append(_name(match["type"]))
            given = given or (match["value"] or "").partition(". Got value: ")[0]
        elif match := _SUBCLASS.match(line):
            expected.append(f"a {match['type']}")
            given = given or match["path"] or match["value"] or ""
        elif line.startswith(_NO_PATH):
            expected.append("a class path")
            given = given or line.removeprefix(_NO_PATH)
        else:
            reason = _DENIED.sub(r"\g<path> is not allowed: it could run anything", line)
            reasons.append(re.sub(r"\. Got value: .*", "", reason))
    # Every key but the first is one of an object, whose settings are under `init_args`.
    key = ".init_args.".join(keys)
    what = ", ".join(reasons) or f"expected {' or '.join(dict.fromkeys(expected))}, got {given}"
    text = f"{key}: {what}" if key else what
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]} ..."


def _name(type_: str) -> str:
    """Give the name of a type without its modules."""
    if match := re.fullmatch(r"typing\.Literal\[(.*)\]", type_):
        return f"one of {match[1]}"
    return re.sub(r"(?:\w+\.)+", "", type_.removeprefix("<class '").removesuffix("'>"))
