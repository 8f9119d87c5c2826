"""The tokenizer of the tiny backbone, ready to encode."""

import pytest
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def tokenizer(tiny_backbone):
    return AutoTokenizer.from_pretrained(tiny_backbone)
