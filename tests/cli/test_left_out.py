"""Learning rate and run name of a configuration that has none."""

import math

import pytest
import yaml

from tera_pl.analysis.learning_rates import on_grid
from tera_pl.tasks.optimizer import RATES
from tests.attempts import attempt
from tests.conftest import ROOT

MODEL = "model.init_args"
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"weight_decay": 0.0}}
SGD = {"class_path": "torch.optim.SGD", "init_args": {"weight_decay": 0.0}}
CSV, BOARD = (f"lightning.pytorch.loggers.{name}Logger" for name in ("CSV", "TensorBoard"))


@pytest.fixture
def parsed(tiny_config, tmp_path, monkeypatch, capsys):
    """Parse a configuration with other settings of optimizer, adapter and logger."""
    monkeypatch.chdir(tmp_path)

    def parse(*options, **changes):
        content = yaml.safe_load(tiny_config.read_text())
        settings = content["model"]["init_args"] | content["trainer"]
        settings |= changes
        for key, value in settings.items():
            part = content["trainer" if key in content["trainer"] else "model"]
            part = part if key in part else part["init_args"]
            part[key] = value
            if value == "left out":
                del part[key]
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content))
        code, errors, cli = attempt(["fit", "--config", str(path), *options], capsys)
        assert (code, errors) == (0, [])
        return cli

    return parse


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer": ADAMW}, 0.1),
        ({"optimizer": "left out"}, 0.1),
        ({"optimizer": ADAMW, "adapter": {"class_path": "peft.LoraConfig"}}, 0.003),
        ({"optimizer": ADAMW, "adapter": None}, 3e-5),
        ({}, None),  # 0.1, which the configuration has
        ({"optimizer": SGD}, None),
    ],
)
def test_rate_of_the_method(parsed, changes, expected):
    cli = parsed(**changes)
    rate = cli.config.fit.model.init_args.optimizer.init_args.lr
    assert (cli.added.rate is None) == (expected is None)
    if expected is None:
        assert rate == (0.001 if changes else 0.1)
    else:
        assert rate == expected
        assert f"{expected:g}, the default of " in cli.added.rate
    # Other settings stay as they are.
    assert cli.config.fit.model.init_args.optimizer.init_args.weight_decay == 0.0


def test_rate_on_the_command_line_wins(parsed):
    cli = parsed(f"--{MODEL}.optimizer.init_args.lr=0.001", optimizer=ADAMW)
    assert (cli.config.fit.model.init_args.optimizer.init_args.lr, cli.added.rate) == (0.001, None)


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        ("left out", [("runs", "mine")]),
        ({"class_path": BOARD, "init_args": {"save_dir": "a"}}, [("a", "mine")]),
        ({"class_path": BOARD, "init_args": {"save_dir": "a", "name": "b"}}, [("a", "b")]),
        (
            [
                {"class_path": CSV, "init_args": {"save_dir": "a"}},
                {"class_path": BOARD, "init_args": {"save_dir": "c", "name": "b"}},
            ],
            [("a", "mine"), ("c", "b")],
        ),
        (False, []),
    ],
)
def test_runs_are_named_after_their_configuration(parsed, logger, expected):
    cli = parsed(logger=logger)
    assert [(one.save_dir, one.name) for one in cli.trainer.loggers] == expected


def test_rates_are_halfway_between_the_two_that_are_known():
    """Of MiniWorld's search and of the Llamas, as the shipped configurations have them."""
    small, large = (ROOT / "configs" / name for name in ("miniature", "commonsense170k/llama3_8b"))
    files = {
        "LoraConfig": ("lora", "lora"),
        "HiraConfig": ("hira", "hira_r32"),
        "VeraConfig": ("vera", "vera"),
        "RandLoraConfig": ("randlora", "randlora"),
        "IA3Config": ("ia3", "ia3"),
        "LorettaConfig": ("loretta", "loretta"),
        "MoraConfig": ("mora", "mora"),
        "LotrConfig": ("lotr", "lotr"),
        "PromptTuningConfig": ("prompt_tuning", "prompt_tuning"),
        "PromptEncoderConfig": ("p_tuning", "p_tuning"),
    }
    assert RATES.keys() == files.keys() | {"TeraConfig"}
    for name, pair in files.items():
        texts = [(f / f"{p}.yaml").read_text() for f, p in zip((small, large), pair, strict=True)]
        rates = [
            float(yaml.safe_load(text)["model"]["init_args"]["optimizer"]["init_args"]["lr"])
            for text in texts
        ]
        assert RATES[name] == on_grid(math.sqrt(rates[0] * rates[1])), name
