"""Standard errors against their formula and against the bootstrap; records of two processes."""

import math
import os

import numpy as np
import pytest
import torch.distributed as dist

from tera_pl.metrics import RecordLoss, loss_per_token, loss_scores, perplexity
from tera_pl.metrics.record_loss import gather_records
from tests.forks import call

NLL = [4.0, 1.0, 7.5]
TOKENS = [2, 1, 3]


def test_loss_weighs_tokens_and_its_error_is_of_records():
    # R = 25/12; residuals -1/6, -13/12 and 5/4, whose squares add up to 398/144.
    loss = loss_per_token(NLL, TOKENS)
    assert loss.value == pytest.approx(12.5 / 6)
    assert loss.se == pytest.approx(math.sqrt(3 / 2 * 398 / 144) / 6)


def test_error_is_that_of_the_bootstrap_over_records():
    """Tokens of a record share its level, so an error over tokens would be far too small."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 60, 400)
    nll = tokens * generator.gamma(9, 1 / 3, 400)
    samples = generator.integers(0, 400, (4000, 400))
    resampled = nll[samples].sum(1) / tokens[samples].sum(1)
    found = loss_per_token(nll.tolist(), tokens.tolist())
    assert found.se == pytest.approx(resampled.std(), rel=0.05)
    assert perplexity(found).se == pytest.approx(np.exp(resampled).std(), rel=0.1)


def test_equal_lengths_give_the_standard_error_of_a_mean():
    found = loss_per_token([2.0, 4.0, 9.0], [2, 2, 2])
    assert found.se == pytest.approx(np.std([1, 2, 4.5], ddof=1) / math.sqrt(3))


def test_scores_by_name():
    scores = loss_scores([RecordLoss(*row) for row in zip("abc", NLL, TOKENS, strict=True)])
    loss, se = loss_per_token(NLL, TOKENS)
    expected = {"loss": loss, "loss_se": se}
    expected |= {"perplexity": math.exp(loss), "perplexity_se": math.exp(loss) * se}
    assert scores == pytest.approx(expected)
    assert loss_scores([RecordLoss("a", 4.0, 2)]) == {"loss": 2.0, "perplexity": math.exp(2)}
    assert math.isnan(loss_scores([RecordLoss("a", 0.0, 0)])["loss"])
    assert loss_scores([]) == {}


def gather(rank, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    # Twice the same id in one process are two records of a dataset; in two it is a repetition.
    mine = [["c", "a", "a"], ["b", "c"]][rank]
    found = gather_records([RecordLoss(name, float(rank), 1) for name in mine])
    assert [(row.id, row.nll) for row in found] == [("a", 0), ("a", 0), ("b", 1), ("c", 0)]


@pytest.mark.slow
def test_a_record_that_two_processes_have_counts_once(tmp_path):
    assert call(gather, (0, tmp_path), (1, tmp_path)) == [0, 0]
