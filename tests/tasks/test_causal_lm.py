"""The loss against its definition; what gradient checkpointing and batching must not change."""

from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tera_pl.adapters import TeraConfig
from tera_pl.models.backbone import Backbone
from tera_pl.tasks import CausalLMTask, Generation
from tera_pl.tasks.generation import generate_answers

IDS = [[1, 5, 6, 7, 2], [1, 8, 9, 2, 0]]
LABELS = [[-100, -100, 6, 7, 2], [-100, 8, 9, 2, -100]]
MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
BATCH = {
    "input_ids": torch.tensor(IDS),
    "labels": torch.tensor(LABELS),
    "attention_mask": torch.tensor(MASK),
}


def make_task(path, checkpointing=False, attention=None, **kwargs):
    torch.manual_seed(0)
    backbone = Backbone(
        str(path),
        dtype="float32",
        gradient_checkpointing=checkpointing,
        attn_implementation=attention,
    )
    adapter = TeraConfig(target_modules=["q_proj", "v_proj"], init_weights=False)
    task = CausalLMTask(backbone, adapter, **kwargs)
    task.setup("fit")
    task.configure_model()
    return task


def test_loss_is_the_mean_of_nats_per_supervised_token(tiny_backbone):
    task = make_task(tiny_backbone)
    loss, num_tokens = task.compute_loss(BATCH)
    with torch.no_grad():
        logits = task.model(input_ids=BATCH["input_ids"]).logits.double()
    nats = [
        -torch.log_softmax(logits[row, position - 1], -1)[label].item()
        for row, labels in enumerate(LABELS)
        for position, label in enumerate(labels)
        if label != -100
    ]
    assert num_tokens == len(nats) == 6
    assert loss.item() == pytest.approx(sum(nats) / 6, rel=1e-5)


@pytest.mark.parametrize("attention", [None, "packed_sdpa"])
def test_losses_of_rows_are_those_of_each_row_alone(tiny_backbone, attention):
    task = make_task(tiny_backbone, attention=attention)
    task.eval()
    batch = {key: value.clone() for key, value in BATCH.items()}
    # Of a third row no token is supervised.
    for key, row in (
        ("input_ids", [1, 5, 6, 0, 0]),
        ("labels", [-100] * 5),
        ("attention_mask", [1, 1, 1, 0, 0]),
    ):
        batch[key] = torch.cat([batch[key][:1], torch.tensor([row]), batch[key][1:]])
    with torch.no_grad():
        first, none, last = task.compute_row_losses(batch)
        for found, ids, labels, mask in zip([first, last], IDS, LABELS, MASK, strict=True):
            length = sum(mask)
            logits = task.model(input_ids=torch.tensor([ids[:length]])).logits[0, :-1]
            expected = torch.nn.functional.cross_entropy(
                logits, torch.tensor(labels[1:length]), reduction="none"
            )
            supervised = [label != -100 for label in labels[1:length]]
            torch.testing.assert_close(found, expected[supervised], rtol=1e-5, atol=1e-6)
    assert len(none) == 0


def test_only_the_adapter_is_trained(tiny_backbone):
    task = make_task(tiny_backbone)
    trained = [name for name, p in task.named_parameters() if p.requires_grad]
    assert trained
    assert all("tera_vectors" in name for name in trained)
    optimized = {
        id(p)
        for p in task.optimizer([p for p in task.parameters() if p.requires_grad]).param_groups[0][
            "params"
        ]
    }
    assert optimized == {id(p) for p in task.parameters() if p.requires_grad}


def test_default_optimizer_decays_nothing(tiny_backbone):
    task = make_task(tiny_backbone)
    assert task.spec.optimizer["weight_decay"] == 0.0


def test_full_fine_tuning_trains_every_weight(tiny_backbone):
    task = CausalLMTask(Backbone(str(tiny_backbone), dtype="float32"), None)
    task.setup("fit")
    task.configure_model()
    assert all(p.requires_grad for p in task.model.parameters())
    assert task.spec.adapter is None


def test_gradient_checkpointing_changes_no_gradient(tiny_backbone):
    gradients = []
    for checkpointing in (False, True):
        task = make_task(tiny_backbone, checkpointing)
        assert task.model.training
        task.compute_loss(BATCH)[0].backward()
        gradients.append({n: p.grad for n, p in task.named_parameters() if p.requires_grad})
    assert all(g is not None and g.any() for g in gradients[1].values())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_padding_does_not_change_answers(tiny_backbone, num_beams):
    task = make_task(tiny_backbone, generation=Generation(max_new_tokens=5, num_beams=num_beams))
    task.eval()
    prompts = [[1, 5, 6, 7, 8, 9], [1, 8]]
    alone = [
        task.generate(
            {
                "prompt_input_ids": torch.tensor([ids]),
                "prompt_attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            }
        )[0]
        for ids in prompts
    ]
    together = task.generate(
        {
            "prompt_input_ids": torch.tensor([prompts[0], [0] * 4 + prompts[1]]),
            "prompt_attention_mask": torch.tensor([[1] * 6, [0] * 4 + [1] * 2]),
        }
    )
    assert together == alone


def test_answers_end_at_the_end_of_sequence(tiny_backbone, monkeypatch):
    task = make_task(tiny_backbone)
    eos, word = task.tokenizer.eos_token_id, task.tokenizer.convert_tokens_to_ids("blue")
    monkeypatch.setattr(
        task.model, "generate", lambda **kwargs: torch.tensor([[1, 5, word, eos, word, word]])
    )
    prompt = torch.tensor([[1, 5]])
    batch = {"prompt_input_ids": prompt, "prompt_attention_mask": torch.ones_like(prompt)}
    assert task.generate(batch) == ["blue"]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_answers_end_at_the_tokens_of_the_data(tiny_backbone, num_beams):
    task = make_task(tiny_backbone)
    generation = Generation(max_new_tokens=6, num_beams=num_beams)

    def ask_for(word):
        prompt = torch.tensor([[1, 5, word]])
        batch = {"prompt_input_ids": prompt, "prompt_attention_mask": torch.ones_like(prompt)}
        return partial(
            generate_answers, task.model, task.tokenizer, batch, generation, synced=False
        )

    # A random model answers most prompts with one word, or none.
    asks = (ask_for(word) for word in range(4, 40))
    ask, words = next((ask, w) for ask in asks if len(set(w := ask()[0].split())) > 1)
    stop = next(word for word in words if word != words[0])
    expected = words[: words.index(stop)]
    (answer,) = ask(stop_token_ids=[task.tokenizer.convert_tokens_to_ids(stop)])
    if num_beams == 1:
        assert answer.split() == expected
    else:  # other beams may win, none of which has the token
        assert stop not in answer.split()


def test_foreign_tokenizer_is_refused(tiny_backbone, tmp_path):
    AutoModelForCausalLM.from_pretrained(tiny_backbone).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    tokenizer.add_tokens([f"new{i}" for i in range(50)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the tokenizer of .* tokens, the model only"):
        make_task(tmp_path)
