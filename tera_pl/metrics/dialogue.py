"""The six scores of generated dialogue: BLEU, METEOR, ROUGE-L and BERTScore."""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nltk
import sacrebleu
import torch
from bert_score import BERTScorer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from tera_pl.errors import UserError
from tera_pl.metrics.rows import RowMetric
from tera_pl.private_api.bert_score import tokenizer_of

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

    Models and corpora are searched on this machine, then downloaded. If one is unavailable, its
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
        outputs, references = self._texts()
        if not outputs:
            return {}
        found: dict[str, float] = {}
        self.missing = {}
        scorers: dict[tuple[str, ...], Scorer] = {
            ("bleu",): _bleu,
            ("rouge_l",): _rouge_l,
            ("meteor",): _meteor,
            ("bertscore_f1", "bertscore_recall", "bertscore_precision"): self._bertscore,
        }
        for names, scorer in scorers.items():
            try:
                found |= scorer(outputs, references)
            except _Unavailable as error:
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

    def _bertscore(self, outputs: Texts, references: list[Texts]) -> dict[str, float]:
        if self.bertscore_model is None:
            raise _Unavailable("metric.bertscore_model is null")
        try:
            scorer = BERTScorer(
                model_type=self.bertscore_model,
                num_layers=self.bertscore_layer,
                batch_size=self.bertscore_batch_size,
                device=str(self.device),
            )
        except OSError as error:
            reason = str(error).strip().split("\n")[0]
            raise _Unavailable(
                f"no encoder {self.bertscore_model!r} here, and it could not be downloaded "
                f"({reason}): put it in the cache of the Hub or name a folder as "
                "metric.bertscore_model"
            ) from None
        # An incomplete folder, and bert-score's check of the layer. Answers are generated already:
        # their other scores must not be lost.
        except (ValueError, AssertionError) as error:
            reason = str(error).strip().split("\n")[0]
            raise _Unavailable(
                f"encoder {self.bertscore_model!r}, layer {self.bertscore_layer}: {reason}"
            ) from None
        # bert-score calls this for an empty text (which scores 0); transformers 5 removed it.
        tokenizer = tokenizer_of(scorer)
        tokenizer.build_inputs_with_special_tokens = lambda ids: tokenizer.encode("")
        precision, recall, f1 = (
            values.double().mean() for values in scorer.score(outputs, references)
        )
        return {
            "bertscore_f1": 100 * float(f1),
            "bertscore_recall": 100 * float(recall),
            "bertscore_precision": 100 * float(precision),
        }


class _Unavailable(Exception):  # noqa: N818 - no error of the program
    """A model or corpus of a score is unavailable."""


def _bleu(outputs: Texts, references: list[Texts]) -> dict[str, float]:
    # One stream per reference; None where a text has fewer.
    most = max(len(some) for some in references)
    streams = [[some[i] if i < len(some) else None for some in references] for i in range(most)]
    bleu = sacrebleu.corpus_bleu(outputs, streams, smooth_method="none", tokenize="13a", force=True)
    return {"bleu": float(bleu.score)}


def _rouge_l(outputs: Texts, references: list[Texts]) -> dict[str, float]:
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = [
        scorer.score_multi(some, output)["rougeL"].fmeasure
        for output, some in zip(outputs, references, strict=True)
    ]
    return {"rouge_l": 100 * sum(scores) / len(scores)}


def _meteor(outputs: Texts, references: list[Texts]) -> dict[str, float]:
    _find_nltk("corpora/wordnet")
    _find_nltk("tokenizers/punkt_tab")
    scores = [
        meteor_score(
            [nltk.word_tokenize(reference) for reference in some],
            nltk.word_tokenize(output),
            alpha=0.9,
            beta=3,
            gamma=0.5,
        )
        for output, some in zip(outputs, references, strict=True)
    ]
    return {"meteor": 100 * sum(scores) / len(scores)}


def _find_nltk(resource: str) -> None:
    """Find or download a resource of nltk."""
    name = resource.split("/")[1]
    if _has_nltk(resource):
        return
    nltk.download(name, quiet=True)
    if not _has_nltk(resource):
        raise _Unavailable(
            f"nltk has no {name!r} here, and it could not be downloaded: run "
            f"`python -m nltk.downloader {name}` where there is a network, and copy nltk_data"
        )


def _has_nltk(resource: str) -> bool:
    for name in (resource, f"{resource}.zip"):
        try:
            nltk.data.find(name)
        except LookupError:
            continue
        return True
    return False
