"""Scores of dialogue against the packages that define them, and against nothing where they lack."""

import json
import math
import re
from collections import Counter

import nltk
import pytest
import sacrebleu
import torch
import torch.distributed as dist
from bert_score import score as bert_score
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.text import SacreBLEUScore
from transformers import BertConfig, BertModel, BertTokenizerFast

from datamodules import ConvAI2
from tera_pl.metrics import DialogueScores, clean_dialogue
from tera_pl.metrics.dialogue_scorers import has_nltk
from tests import forks

OUTPUTS = ["i like cats . R: and you ?", "hello there my friend", "yes", "i do not know , sorry ."]
REFERENCES = [
    ["i like cats a lot .", "cats !"],
    "hello my old friend",
    ["no"],
    "i do not know what you mean , sorry .",
]


def records(references):
    return [{"reference": reference} for reference in references]


def as_lists(references):
    return [[some] if isinstance(some, str) else some for some in references]


def compute(outputs, references, **settings):
    metric = DialogueScores(**{"bertscore_model": None, **settings})
    metric.update(outputs, records(references))
    return {name: value.item() for name, value in metric.compute().items()}, metric.missing


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("nltk.download", lambda *args, **kwargs: False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A random BERT of two layers with a vocabulary of letters."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz.,!?:"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" i like it . Q: why ?", "i like it ."),
        ("R: x", ""),
        ("one TARGET: two R: three", "one"),
        ("  ", ""),
        ("a question : yes", "a question : yes"),
    ],
)
def test_reply_ends_where_the_next_turn_begins(text, cleaned):
    assert clean_dialogue(text) == cleaned


def bleu(outputs, references):
    """Corpus BLEU-4 with one brevity penalty, written out; texts are split at spaces."""
    hits, totals = [0] * 4, [0] * 4
    for output, reference in zip(outputs, references, strict=True):
        words, wanted = output.split(), reference.split()
        for n in range(1, 5):
            grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
            known = Counter(zip(*(wanted[i:] for i in range(n)), strict=False))
            hits[n - 1] += sum((grams & known).values())
            totals[n - 1] += sum(grams.values())
    long, short = sum(len(o.split()) for o in outputs), sum(len(r.split()) for r in references)
    penalty = min(1.0, math.exp(1 - short / long))
    mean = sum(math.log(h / t) for h, t in zip(hits, totals, strict=True)) / 4
    return 100 * penalty * math.exp(mean)


def test_bleu_by_its_formula():
    outputs = ["i do not know the man at all", "cats are very nice animals to have"]
    references = ["i do not know this man at all", "dogs are very nice animals to see"]
    scores, _ = compute(outputs, references)
    assert scores["bleu"] == pytest.approx(bleu(outputs, references), abs=1e-4)


def test_bleu_by_torchmetrics():
    references = ["i like cats a lot .", "hello my old friend", "yes", REFERENCES[-1]]
    outputs = [clean_dialogue(output) for output in OUTPUTS]
    expected = SacreBLEUScore(tokenize="13a")(outputs, [[text] for text in references])
    found = compute(OUTPUTS, references)[0]["bleu"]
    assert found == pytest.approx(100 * expected.item(), abs=1e-4)


def test_more_references_can_only_help():
    more, _ = compute(OUTPUTS, REFERENCES)
    first, _ = compute(OUTPUTS, [some[0] for some in as_lists(REFERENCES)])
    assert more["rouge_l"] >= first["rouge_l"]
    assert more["bleu"] >= first["bleu"]


def test_rouge_by_its_package():
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    outputs = [clean_dialogue(output) for output in OUTPUTS]
    expected = [
        max(scorer.score(reference, output)["rougeL"].fmeasure for reference in some)
        for output, some in zip(outputs, as_lists(REFERENCES), strict=True)
    ]
    scores, _ = compute(OUTPUTS, REFERENCES)
    assert scores["rouge_l"] == pytest.approx(100 * sum(expected) / 4)


@pytest.mark.parametrize("references", [REFERENCES, ["a b c", "d", "e f", "g"]])
def test_bertscore_by_its_package(encoder, references):
    outputs = [clean_dialogue(output) for output in OUTPUTS]
    expected = bert_score(outputs, as_lists(references), model_type=encoder, num_layers=1)
    scores, missing = compute(OUTPUTS, references, bertscore_model=encoder, bertscore_layer=1)
    names = ("bertscore_precision", "bertscore_recall", "bertscore_f1")
    for name, values in zip(names, expected, strict=True):
        assert scores[name] == pytest.approx(100 * values.mean().item(), abs=1e-4)
    assert "bertscore_f1" not in missing


def test_empty_text_scores_zero(encoder):
    """As bert-score has it; the part of transformers that it relied on for this is gone."""
    settings = {"bertscore_model": encoder, "bertscore_layer": 1}
    full, _ = compute(["yes we can"], ["no"], **settings)
    half, _ = compute(["yes we can", "", "a"], ["no", "yes", ""], **settings)
    for name in ("bertscore_f1", "bertscore_recall", "bertscore_precision"):
        assert half[name] == pytest.approx(full[name] / 3, rel=1e-5)


def test_encoder_that_cannot_be_used_costs_no_other_score(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("tera_pl.metrics.dialogue_scorers.has_nltk", lambda resource: False)
    for folder, layer in ((encoder, 3), (str(tmp_path), 1)):
        scores, missing = compute(
            OUTPUTS, REFERENCES, bertscore_model=folder, bertscore_layer=layer
        )
        assert scores.keys() == {"bleu", "rouge_l"}
        assert f"encoder '{folder}', layer {layer}: " in missing["bertscore_f1"]


@pytest.mark.parametrize("settings", [{"bertscore_layer": -1}, {"bertscore_batch_size": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"metric\.bertscore_layer is .*: expected at least 0"):
        DialogueScores(**settings)


class NoWords:
    """Stands for WordNet: no word has a synonym."""

    @staticmethod
    def synsets(word):
        return []


def test_meteor_by_its_formula(monkeypatch):
    """Exact and stem matches, F with recall 9 times precision, and the penalty for chunks."""
    monkeypatch.setattr("tera_pl.metrics.dialogue_scorers._find_nltk", lambda resource: None)
    monkeypatch.setattr(nltk, "word_tokenize", str.split)
    monkeypatch.setattr(
        "tera_pl.metrics.dialogue_scorers.meteor_score",
        lambda *args, **kwargs: meteor_score(*args, wordnet=NoWords(), **kwargs),
    )
    scores, missing = compute(["the cat sat here now"], ["on the mat the cat sat"])
    # Three matches of five and six words, in one chunk or two; nltk aligns from the end.
    precision, recall = 3 / 5, 3 / 6
    f = precision * recall / (0.9 * precision + 0.1 * recall)
    possible = [100 * f * (1 - 0.5 * (chunks / 3) ** 3) for chunks in (1, 2)]
    assert any(scores["meteor"] == pytest.approx(value) for value in possible)
    assert "meteor" not in missing


@pytest.mark.skipif(
    not (has_nltk("corpora/wordnet") and has_nltk("tokenizers/punkt_tab")),
    reason="nltk has no wordnet or no punkt_tab here",
)
def test_meteor_by_its_package():
    outputs = [clean_dialogue(output) for output in OUTPUTS]
    expected = [
        meteor_score(
            [nltk.word_tokenize(reference) for reference in some], nltk.word_tokenize(output)
        )
        for output, some in zip(outputs, as_lists(REFERENCES), strict=True)
    ]
    scores, _ = compute(OUTPUTS, REFERENCES)
    assert scores["meteor"] == pytest.approx(100 * sum(expected) / 4)


def test_average_is_of_all_six_or_missing(encoder, monkeypatch):
    settings = {"bertscore_model": encoder, "bertscore_layer": 1}
    monkeypatch.setattr("tera_pl.metrics.dialogue_scorers.meteor", lambda *args: {"meteor": 12.0})
    scores, missing = compute(OUTPUTS, REFERENCES, **settings)
    six = [value for name, value in scores.items() if name != "average"]
    assert len(six) == 6
    assert scores["average"] == pytest.approx(sum(six) / 6)
    assert not missing


def test_an_unavailable_score_is_missing_and_logged(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    scores, missing = compute(OUTPUTS, REFERENCES, bertscore_model=str(tmp_path / "nowhere"))
    assert scores.keys() == {"bleu", "rouge_l"} == set(DialogueScores.names())
    assert "python -m nltk.downloader wordnet" in missing["meteor"]
    for name in ("bertscore_f1", "bertscore_recall", "bertscore_precision"):
        assert "nowhere" in missing[name]
    assert re.search("meteor: not scored", caplog.text)


def test_nothing_to_score():
    assert DialogueScores().compute() == {}


def test_real_turns_against_themselves_and_each_other(shared):
    data = ConvAI2("none", str(shared / "data" / "convai2"))
    replies = [record["response"] for record in data.test_records()[:300]]
    scores, _ = compute(replies, replies)
    assert scores["bleu"] == pytest.approx(100)
    assert scores["rouge_l"] == pytest.approx(100)
    shifted, _ = compute(replies, [*replies[1:], replies[0]])
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    expected = [
        scorer.score(reference, output)["rougeL"].fmeasure
        for output, reference in zip(replies, [*replies[1:], replies[0]], strict=True)
    ]
    assert shifted["rouge_l"] == pytest.approx(100 * sum(expected) / len(expected))
    bleu = sacrebleu.corpus_bleu(replies, [[*replies[1:], replies[0]]], smooth_method="none")
    assert shifted["bleu"] == pytest.approx(bleu.score, abs=1e-4)


def _one_of_two(rank, folder):
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = []
    # Uneven, and with nothing in the second process.
    for split in (1, 4):
        metric = DialogueScores(bertscore_model=None)
        part = slice(0, split) if rank == 0 else slice(split, 4)
        metric.update(OUTPUTS[part], records(REFERENCES[part]))
        found.append({name: value.item() for name, value in metric.compute().items()})
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    assert forks.call(_one_of_two, (0, tmp_path), (1, tmp_path)) == [0, 0]
    expected, _ = compute(OUTPUTS, REFERENCES)
    for rank in range(2):
        for found in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert found == pytest.approx(expected)
