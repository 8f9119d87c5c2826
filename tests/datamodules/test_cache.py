"""The token cache under simultaneous processes, or processes that are killed."""

import json
import os
import signal

import datasets
import pytest
from transformers import AutoTokenizer

from datamodules import tokenization
from datamodules.encoding import Encoding
from datamodules.tokenization import encode
from tests import forks

NUM = 6_000


def records():
    return [
        {
            "prompt": "What color is the sky ? " * (1 + i % 5),
            "response": "blue" if i % 2 else "red green",
            "task": "t",
            "reference": "r",
            "choices": None,
            "id": f"file:{i}",
        }
        for i in range(NUM)
    ]


def encode_all(backbone, result, cache):
    """Encode with a cache in a process; write what tells whether it was done right."""
    datasets.config.HF_DATASETS_CACHE = cache
    rows = encode(records(), AutoTokenizer.from_pretrained(backbone), Encoding())
    result.write_text(json.dumps([rows[0]["input_ids"], rows[-1]["input_ids"], len(rows)]))


def encode_until_killed(backbone, result, cache):
    """The same, killed in the fourth of six batches: the file in the cache is incomplete."""
    complete, calls = tokenization._encode_batch, []

    def encode_batch(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return complete(*args, **kwargs)

    tokenization._encode_batch = encode_batch
    encode_all(backbone, result, cache)


@pytest.mark.slow
def test_two_that_start_together_and_one_that_is_killed(tiny_backbone, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    killed = (tiny_backbone, tmp_path / "killed", cache)
    assert forks.call(encode_until_killed, killed) == [-signal.SIGKILL]
    assert list(cache.rglob("tera_pl/*"))
    assert not list(cache.rglob("*.arrow"))

    both = [(tiny_backbone, tmp_path / str(i), cache) for i in range(2)]
    assert forks.call(encode_all, *both) == [0, 0]
    monkeypatch.setattr("datamodules.tokenization.CACHED_FROM", NUM + 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    plain = encode(records(), AutoTokenizer.from_pretrained(tiny_backbone), Encoding())
    expected = [plain[0]["input_ids"], plain[-1]["input_ids"], NUM]
    for i in range(2):
        assert json.loads((tmp_path / str(i)).read_text()) == expected
    assert len(list(cache.rglob("*.arrow"))) == 1
