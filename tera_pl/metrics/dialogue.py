"""The six scores of generated dialogue: BLEU, METEOR, ROUGE-L and BERTScore."""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tera_pl.errors import UserError
from tera_pl.extras import EXTRAS, require
from tera_pl.metrics.rows import RowMetric

Texts = list[str]
Scorer = Callable[[Texts, list[Texts]], dict[str, float]]
SIX = ("bleu", "bertscore_f1", "bertscore_recall", "bertscore_precision", "meteor", "rouge_l")
_log = logging.getLogger(__name__)


def clean_dialogue(text: str) -> str:
    """Truncate a generated reply at the start of the next turn, as HiRA does.

    Args:
        text: A generated answer.

    Returns:
        The text before the first `TARGET:`, `Q:` or `R:`, stripped of white space.

    Example:
        >>> clean_dialogue(" i like it . Q: why ?")
        'i like it .'
    """
    return re.split("TARGET:|Q:|R:", text)[0].strip()


class DialogueScores(RowMetric):
    """BLEU-4, METEOR, ROUGE-L, BERTScore F1, recall and precision, and their average, in percent.

    With the defaults of the package `evaluate`, which HiRA and the paper use: BLEU over the corpus,
    13a tokens, not smoothed; METEOR of nltk (alpha 0.9, beta 3, gamma 0.5), mean; ROUGE-L F without
    stemming, mean; BERTScore without idf and without rescaling, means. With several references the
    best one counts; for BLEU the closest length (`evaluate`: the shortest).

    The packages are those of the extra `text`. Models and corpora are searched on this machine,
    then downloaded. If one is unavailable, its
    score and the average are missing; `missing` has the reasons.

    Args:
        bertscore_model: Folder or Hub id of BERTScore's encoder, or null for no BERTScore.
        bertscore_layer: Layer of the encoder whose hidden states are compared.
        bertscore_batch_size: Texts per batch of the encoder.
    """

    data: list[Tensor]
    lengths: list[Tensor]

    def __init__(
        self,
        bertscore_model: str | None = "roberta-large",
        bertscore_layer: int = 17,
        bertscore_batch_size: int = 64,
    ) -> None:
        for module in EXTRAS["text"]:
            require(module, "a dialogue score")
        # Answers and references as the bytes of their JSON: plain tensors, which processes can
        # exchange.
        super().__init__(
            data=torch.zeros(0, dtype=torch.uint8), lengths=torch.zeros(0, dtype=torch.long)
        )
        if bertscore_layer < 0 or bertscore_batch_size < 1:
            raise UserError(
                f"metric.bertscore_layer is {bertscore_layer}, metric.bertscore_batch_size is "
                f"{bertscore_batch_size}: expected at least 0 and at least 1"
            )
        self.bertscore_model = bertscore_model
        self.bertscore_layer = bertscore_layer
        self.bertscore_batch_size = bertscore_batch_size
        self.missing: dict[str, str] = {}

    @staticmethod
    def names() -> list[str]:
        """List the scores that are always computed: those that need no download."""
        return ["bleu", "rouge_l"]

    @staticmethod
    def judge(output: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Extract the scored reply."""
        return {"extracted": clean_dialogue(output)}

    def update(self, outputs: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
        """Add answers.

        Args:
            outputs: Generated texts.
            records: The record of each, with `reference`, one text or several.
        """
        for output, record in zip(outputs, records, strict=True):
            reference = record["reference"]
            references = [reference] if isinstance(reference, str) else list(reference)
            text = json.dumps([clean_dialogue(output), references]).encode()
            self.data.append(torch.tensor(list(text), dtype=torch.uint8, device=self.device))
            self.lengths.append(torch.tensor([len(text)], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores by name, as 0-dimensional float tensors in `[0, 100]`."""
        # Packages of an extra, which take a tenth of the start-up time; one dataset needs them.
        from tera_pl.metrics import dialogue_scorers

        outputs, references = self._texts()
        if not outputs:
            return {}
        found: dict[str, float] = {}
        self.missing = {}
        scorers: dict[tuple[str, ...], Scorer] = {
            ("bleu",): dialogue_scorers.bleu,
            ("rouge_l",): dialogue_scorers.rouge_l,
            ("meteor",): dialogue_scorers.meteor,
            ("bertscore_f1", "bertscore_recall", "bertscore_precision"): partial(
                dialogue_scorers.bertscore,
                model=self.bertscore_model,
                layer=self.bertscore_layer,
                batch_size=self.bertscore_batch_size,
                device=self.device,
            ),
        }
        for names, scorer in scorers.items():
            try:
                found |= scorer(outputs, references)
            except dialogue_scorers.UnavailableError as error:
                self.missing |= dict.fromkeys(names, str(error))
                _log.warning("%s: not scored: %s", ", ".join(names), error)
        if not self.missing:
            found["average"] = sum(found[name] for name in SIX) / len(SIX)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def _texts(self) -> tuple[Texts, list[Texts]]:
        """Decode answers and references."""
        data, lengths = self.rows("data"), self.rows("lengths")
        encoded, start, pairs = bytes(data.tolist()), 0, []
        for length in lengths.tolist():
            pairs.append(json.loads(encoded[start : start + length]))
            start += length
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
