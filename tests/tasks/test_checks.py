"""What a configuration lacks or contradicts is refused before weights load."""

import shutil
from types import SimpleNamespace

import pytest
from torchmetrics import MeanMetric
from transformers import AutoTokenizer

from tera_pl.errors import UserError
from tera_pl.metrics import ChoiceAccuracy
from tera_pl.tasks.checks import check_metric, check_tokenizer


def test_a_metric_needs_the_methods_that_score_answers():
    metric = ChoiceAccuracy()
    assert check_metric(metric) is metric
    assert check_metric(None) is None
    with pytest.raises(UserError, match=r"metric is MeanMetric: expected one of tera_pl\.metrics"):
        check_metric(MeanMetric())


def test_data_must_be_tokenized_by_the_tokenizer_of_the_backbone(tiny_backbone, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    copied = AutoTokenizer.from_pretrained(shutil.copytree(tiny_backbone, tmp_path / "copy"))
    copied.pad_token = copied.eos_token
    check_tokenizer(tokenizer, SimpleNamespace(tokenizer=copied))
    check_tokenizer(tokenizer, None)
    copied.add_tokens(["new"])
    with pytest.raises(UserError, match=r"SimpleNamespace tokenizes with '.*copy', which differs"):
        check_tokenizer(tokenizer, SimpleNamespace(tokenizer=copied))
