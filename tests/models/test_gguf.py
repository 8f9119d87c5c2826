"""A GGUF file gives the weights that were written into it, as a plain model that can be saved."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tera_pl.checkpointing.trained_model import _read_backbone
from tera_pl.errors import UserError
from tera_pl.models.backbone import Backbone, load_model, load_tokenizer
from tera_pl.models.base_description import describe_base

gguf = pytest.importorskip("gguf")

FILE = "tiny.gguf"
TOKENS = ["<unk>", "<s>", "</s>", *"abcdefgh", "Ġ", "ab", "Ġc"]
HEADS, KV_HEADS = 4, 2
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.0.input_layernorm": "blk.0.attn_norm",
    "model.layers.0.post_attention_layernorm": "blk.0.ffn_norm",
    "model.layers.0.self_attn.q_proj": "blk.0.attn_q",
    "model.layers.0.self_attn.k_proj": "blk.0.attn_k",
    "model.layers.0.self_attn.v_proj": "blk.0.attn_v",
    "model.layers.0.self_attn.o_proj": "blk.0.attn_output",
    "model.layers.0.mlp.gate_proj": "blk.0.ffn_gate",
    "model.layers.0.mlp.up_proj": "blk.0.ffn_up",
    "model.layers.0.mlp.down_proj": "blk.0.ffn_down",
}


def as_stored(name, weight):
    """The format pairs the two halves of a head's rows, which transformers keeps apart."""
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.rpartition(".")[2])
    if heads is None:
        return weight
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    writer = gguf.GGUFWriter(folder / FILE, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b", "Ġ c"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for key, weight in model.state_dict().items():
        name = key.removesuffix(".weight")
        stored = as_stored(name, weight.numpy().astype(np.float32))
        writer.add_tensor(f"{NAMES[name]}.weight", np.ascontiguousarray(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def test_weights_and_tokens_are_those_of_the_file(model, folder, tmp_path):
    backbone = Backbone(str(folder), dtype="float32", gguf_file=FILE)
    loaded = load_model(backbone).eval()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)
    ids = torch.tensor([load_tokenizer(backbone).encode("ab c", add_special_tokens=False)])
    assert ids.tolist() == [[TOKENS.index("ab"), TOKENS.index("Ġc")]]
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(loaded(ids).logits, expected)
        loaded.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        torch.testing.assert_close(again(ids).logits, expected)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_a_checkpoint_names_the_file_and_is_loaded_from_it(folder, tmp_path):
    described = describe_base(Backbone(str(folder), dtype="float32", gguf_file=FILE))
    assert described["gguf_file"] == FILE
    assert _read_backbone(described, None, False).gguf_file == FILE
    assert _read_backbone(described, str(folder), False).gguf_file == FILE
    assert _read_backbone(described, str(tmp_path), False).gguf_file is None
    assert "gguf_file" not in describe_base_of_folder(tmp_path)


def describe_base_of_folder(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return describe_base(Backbone(str(folder)))


def test_a_missing_file_is_one_line_that_names_it(folder):
    with pytest.raises(UserError, match=r"backbone\.path: .* with a readable other\.gguf") as error:
        load_model(Backbone(str(folder), gguf_file="other.gguf"))
    assert "\n" not in str(error.value)
