"""The packages that define the scores of dialogue, with the defaults of the package `evaluate`."""

import nltk
import sacrebleu
import torch
from bert_score import BERTScorer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer

from tera_pl.private_api.bert_score import tokenizer_of

Texts = list[str]


class UnavailableError(Exception):
    """A model or corpus of a score is unavailable."""


def bertscore(
    outputs: Texts,
    references: list[Texts],
    *,
    model: str | None,
    layer: int,
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """Compute BERTScore without idf and without rescaling, as means in percent.

    Args:
        outputs: Replies.
        references: References of each reply, one or several.
        model: Folder or Hub id of the encoder.
        layer: Layer of the encoder whose hidden states are compared.
        batch_size: Texts per batch of the encoder.
        device: Device of the encoder.

    Returns:
        F1, recall and precision by name.

    Raises:
        UnavailableError: If there is no such encoder or layer here.
    """
    if model is None:
        raise UnavailableError("metric.bertscore_model is null")
    scorer = load_bert_scorer(model, layer, batch_size, device)
    precision, recall, f1 = (values.double().mean() for values in scorer.score(outputs, references))
    return {
        "bertscore_f1": 100 * float(f1),
        "bertscore_recall": 100 * float(recall),
        "bertscore_precision": 100 * float(precision),
    }


def load_bert_scorer(model: str, layer: int, batch_size: int, device: torch.device) -> BERTScorer:
    """Load the encoder of BERTScore.

    Args:
        model: As in `bertscore`.
        layer: As in `bertscore`.
        batch_size: As in `bertscore`.
        device: As in `bertscore`.

    Returns:
        A scorer without idf and without rescaling, which scores an empty text too.

    Raises:
        UnavailableError: If there is no such encoder or layer here.
    """
    try:
        scorer = BERTScorer(
            model_type=model,
            num_layers=layer,
            batch_size=batch_size,
            device=str(device),
        )
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise UnavailableError(
            f"no encoder {model!r} here, and it could not be downloaded "
            f"({reason}): put it in the cache of the Hub or name a folder as "
            "metric.bertscore_model"
        ) from None
    # An incomplete folder, and bert-score's check of the layer. Answers are generated already:
    # their other scores must not be lost.
    except (ValueError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UnavailableError(f"encoder {model!r}, layer {layer}: {reason}") from None
    # bert-score calls this for an empty text (which scores 0); transformers 5 removed it.
    tokenizer = tokenizer_of(scorer)
    tokenizer.build_inputs_with_special_tokens = lambda ids: tokenizer.encode("")
    return scorer


def bleu(outputs: Texts, references: list[Texts]) -> dict[str, float]:
    """Compute BLEU-4 over the corpus, 13a tokens, not smoothed, in percent."""
    # One stream per reference; None where a text has fewer.
    most = max(len(some) for some in references)
    streams = [[some[i] if i < len(some) else None for some in references] for i in range(most)]
    scored = sacrebleu.corpus_bleu(
        outputs, streams, smooth_method="none", tokenize="13a", force=True
    )
    return {"bleu": float(scored.score)}


def rouge_l(outputs: Texts, references: list[Texts]) -> dict[str, float]:
    """Compute the mean ROUGE-L F without stemming, in percent."""
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = [
        scorer.score_multi(some, output)["rougeL"].fmeasure
        for output, some in zip(outputs, references, strict=True)
    ]
    return {"rouge_l": 100 * sum(scores) / len(scores)}


def meteor(outputs: Texts, references: list[Texts]) -> dict[str, float]:
    """Compute the mean METEOR with alpha 0.9, beta 3 and gamma 0.5, in percent.

    Args:
        outputs: Replies.
        references: References of each reply, one or several.

    Returns:
        The score by name.

    Raises:
        UnavailableError: If a corpus of nltk is neither here nor downloadable.
    """
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
    if has_nltk(resource):
        return
    nltk.download(name, quiet=True)
    if not has_nltk(resource):
        raise UnavailableError(
            f"nltk has no {name!r} here, and it could not be downloaded: run "
            f"`python -m nltk.downloader {name}` where there is a network, and copy nltk_data"
        )


def has_nltk(resource: str) -> bool:
    """Check whether a resource of nltk is on this machine."""
    for name in (resource, f"{resource}.zip"):
        try:
            nltk.data.find(name)
        except LookupError:
            continue
        return True
    return False
