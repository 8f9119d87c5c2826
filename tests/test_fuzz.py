"""Shipped configurations with one thing changed: what is given runs, or is refused in one line.

`make test` tries 200 changes, TERA_PL_SOAK=1 (`make soak`) 2,000.
"""

import random

import pytest
import yaml

from tera_pl.cli import main
from tests.soak import more
from tests.test_configs import CONFIGS, PROTOCOLS, items

pytestmark = pytest.mark.slow

CASES = more(200, times=10)
VALUES = [None, True, False, -1, 0, 1, 7, 2.5, -1e30, "", "x", "tera_pl", "none.yaml", "0", "1e3"]
VALUES += [
    [],
    ["x"],
    [1, 2],
    [[]],
    {},
    {"x": 1},
    {"class_path": "x.Y"},
    {"class_path": "torch.Tensor"},
]
VALUES += [
    "${x}",
    "{instruction}",
    "\u2028",
    "\ud7ff",
    "a\nb",
    "!!python/object:os.system",
    "*",
    2**70,
]


def change(config, generator):
    """Change one value, misspell one key, add one or take one out; give the key and the value."""
    keys = [keys for keys, _ in items(config) if keys != ("base",)]
    keys = generator.choice(keys)
    depth = generator.randrange(1, len(keys) + 1)
    *parents, last = keys[:depth]
    place = config
    for key in parents:
        place = place[key]
    kind = generator.choice(["value", "value", "value", "misspell", "add", "remove"])
    value = generator.choice(VALUES)
    if kind == "value":
        place[last] = value
    elif kind == "misspell":
        last = last[:-1] or "x"
        place[last] = place.pop(keys[depth - 1])
    elif kind == "add":
        last = "unknown_key"
        place[last] = value
    else:
        del place[last]
        return kind, None, None
    return kind, (*parents, last), place[last]


def equal(given, found):
    """Whether a value is what was given; an object may have got its defaults."""
    if isinstance(given, dict) and isinstance(found, dict):
        return all(key in found and equal(value, found[key]) for key, value in given.items())
    # Text that reads as a number may be one: YAML knows no other way to write 1e3.
    return (
        given == found or str(given) == str(found) or _number(given) == _number(found) is not None
    )


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


@pytest.mark.parametrize("batch", range(20))
def test_changed_configs(batch, tmp_path, capsys):
    for case in range(CASES // 20):
        generator = random.Random(f"{batch} {case}")
        source = generator.choice([*CONFIGS, *PROTOCOLS])
        config = yaml.safe_load(source.read_text())
        config["base"] = [str(source.parent / base) for base in config.get("base", [])]
        kind, keys, value = change(config, generator)
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config, allow_unicode=True))
        told = f"batch {batch}, case {case}: {source.name}, {kind} {keys}: {value!r}"
        try:
            code = main(["fit", "--config", str(path), "--print_config"])
        except SystemExit as exit_:
            code = exit_.code
        output = capsys.readouterr()
        if code == 2:
            lines = [line for line in output.err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, told
            assert "Traceback" not in output.err, told
            continue
        assert code == 0, told
        if kind in {"misspell", "add"}:
            # Only where any key may stand: the settings of a free mapping.
            assert "modes_pattern" in keys or "dict" in told, told
        if kind == "value" and value is not None:
            found = yaml.safe_load(output.out)
            for key in keys:
                found = found[key]
            assert equal(value, found), f"{told} became {found!r}"
