"""Log-likelihoods of candidates against a forward pass of transformers for each by itself."""

import copy

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from tera_pl.adapters import TeraConfig
from tera_pl.models.packed_attention import ATTENTION
from tera_pl.tasks.candidates import prepare_candidates, score_candidates
from tera_pl.tasks.loss import IGNORED

# Per record its candidates: tokens, and how many at their end are scored.
GROUPS = [
    # One prompt; continuations that begin alike.
    [([1, 5, 6, 7, 8, 9], 2), ([1, 5, 6, 7, 8, 4, 4], 3), ([1, 5, 6, 7, 3], 1)],
    # Single tokens: all is shared.
    [([1, 9, 9, 2], 1), ([1, 9, 9, 3], 1)],
    # Prompts that differ, and one continuation.
    [([1, 4, 8, 6, 6], 2), ([1, 4, 9, 9, 6, 6], 2)],
    # Nothing is shared.
    [([5, 6], 1), ([6, 5, 5], 2)],
    # A candidate that is the beginning of another one, and two equal ones.
    [([1, 2, 3], 1), ([1, 2, 3, 4], 2), ([1, 2, 3], 1)],
    # A prompt of another length, and a single candidate.
    [([1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7], 4)],
]


def make_batch(groups, left=False):
    rows = [row for group in groups for row in group]
    longest = max(len(ids) for ids, _ in rows)
    ids, mask, labels = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(3))
    labels += IGNORED
    for row, (tokens, scored) in enumerate(rows):
        place = slice(longest - len(tokens), None) if left else slice(len(tokens))
        ids[row, place] = torch.tensor(tokens)
        mask[row, place] = 1
        labels[row, place] = torch.tensor([IGNORED] * (len(tokens) - scored) + tokens[-scored:])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def make_model(attention, config=None, window=None):
    torch.manual_seed(0)
    windowed = {} if window is None else {"sliding_window": window}
    settings = (LlamaConfig if window is None else MistralConfig)(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=10,
        **windowed,
    )
    model = AutoModelForCausalLM.from_config(settings, attn_implementation=attention).double()
    if config is None:
        return model.eval()
    return peft.get_peft_model(model, copy.deepcopy(config)).eval()


def expected_scores(model):
    """Each candidate by itself, without padding."""
    found = []
    with torch.no_grad():
        for group in GROUPS:
            found.append([])
            for ids, scored in group:
                logits = model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]
                logs = torch.log_softmax(logits.double(), -1)
                places = range(len(ids) - scored, len(ids))
                found[-1].append((sum(logs[i - 1, ids[i]].item() for i in places), scored))
    return found


TERA = TeraConfig(target_modules=["q_proj", "v_proj"], init_weights=False)
PROMPTS = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")


# Prompt methods put their tokens before each row, so that nothing can be shared.
@pytest.mark.parametrize(
    ("config", "packed", "left", "window"),
    [
        (None, False, False, None),
        (None, True, False, None),
        (None, True, True, None),
        # Shorter than some prompts, so that places in the row are not distances.
        (None, True, False, 3),
        (TERA, False, False, None),
        (TERA, True, False, None),
        (PROMPTS, False, False, None),
    ],
    ids=["padded", "packed", "left", "window", "tera, padded", "tera, packed", "prompts, padded"],
)
def test_scores_are_those_of_single_sequences(config, packed, left, window):
    expected = expected_scores(make_model("eager", config, window))
    assert len({round(score, 6) for group in expected for score, _ in group}) > 10
    records = [{"candidates": group} for group in GROUPS]
    batch = make_batch(GROUPS, left)
    model = make_model(ATTENTION if packed else "sdpa", config, window)
    prepared = prepare_candidates(batch, records, packed=packed)
    scores = score_candidates(model, prepared, batch["labels"], records)
    assert [[tokens for _, tokens in group] for group in scores] == [
        [tokens for _, tokens in group] for group in expected
    ]
    # Doubles up to the rotary embedding, the norms and the softmax, which are in float32.
    found = torch.tensor([score for group in scores for score, _ in group])
    by_hand = torch.tensor([score for group in expected for score, _ in group])
    torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=1e-6)


def test_what_candidates_share_is_computed_once():
    records = [{"candidates": group} for group in GROUPS]
    inputs = prepare_candidates(make_batch(GROUPS), records, packed=True)["inputs"]
    # By hand: the prefix, and the tokens after it but the last, which predicts nothing.
    shared = [4 + 1 + 2, 3, 2 + 2 + 3, 1 + 2, 2 + 1, 10]
    assert inputs["lengths"] == shared
    assert inputs["input_ids"].shape == inputs["position_ids"].shape == (1, sum(shared))
    assert inputs["position_ids"][0, :7].tolist() == [0, 1, 2, 3, 4, 4, 5]
