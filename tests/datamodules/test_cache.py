"""The token cache under simultaneous processes, or processes that are killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from transformers import AutoTokenizer

from datamodules.encoding import Encoding, encode

NUM = 6_000
SCRIPT = """
import json, sys
from pathlib import Path
from transformers import AutoTokenizer
from datamodules.encoding import Encoding, encode
from tests.datamodules.test_cache import records
rows = encode(records(), AutoTokenizer.from_pretrained(sys.argv[1]), Encoding())
Path(sys.argv[2]).write_text(json.dumps([rows[0]["input_ids"], rows[-1]["input_ids"], len(rows)]))
"""
# The same, killed in the fourth of six batches: there is a file, and it is not whole.
KILLED = """
import os, signal
from datamodules import encoding
whole, calls = encoding._encode_batch, []

def encode_batch(*args, **kwargs):
    calls.append(None)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*args, **kwargs)

encoding._encode_batch = encode_batch
"""


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


def start(script, tokenizer, result, cache):
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script, str(tokenizer), str(result)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_that_start_together_and_one_that_is_killed(tiny_backbone, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    killed = start(KILLED + SCRIPT, tiny_backbone, tmp_path / "killed", cache)
    assert killed.wait() == -signal.SIGKILL
    assert list(cache.rglob("tera_pl/*"))
    assert not list(cache.rglob("*.arrow"))

    both = [start(SCRIPT, tiny_backbone, tmp_path / str(i), cache) for i in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    monkeypatch.setattr("datamodules.encoding.CACHED_FROM", NUM + 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    plain = encode(records(), AutoTokenizer.from_pretrained(tiny_backbone), Encoding())
    expected = [plain[0]["input_ids"], plain[-1]["input_ids"], NUM]
    for i in range(2):
        assert json.loads((tmp_path / str(i)).read_text()) == expected
    assert len(list(cache.rglob("*.arrow"))) == 1
