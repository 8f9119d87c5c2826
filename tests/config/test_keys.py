"""An error is described, and the key that it belongs to is found."""

import torch

from tera_pl.config.construction import describe
from tera_pl.config.keys import find_key
from tests.attempts import attempt


def test_describe_names_what_its_message_does_not():
    assert describe(ValueError("a\n  b")) == "a b"
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(AssertionError()) == "AssertionError"
    assert len(describe(ValueError("x" * 999))) < 450


def test_find_key_compares_class_and_settings(tiny_config, capsys):
    _, _, cli = attempt(["fit", "--config", str(tiny_config)], capsys)
    config = cli.config.fit
    settings = vars(config.model.init_args.optimizer.init_args)
    found = ("model.init_args.optimizer", "model.init_args.optimizer.init_args")
    assert find_key(config, torch.optim.AdamW, settings) == found
    assert find_key(config, torch.optim.AdamW, settings | {"lr": 7.0}) is None
    assert find_key(config, torch.optim.SGD, settings) is None
