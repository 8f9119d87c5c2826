"""Exported folders load elsewhere and give the logits of the run; all else is one line."""

import json
import shutil
import subprocess
import sys

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tera_pl import cli
from tera_pl.__main__ import main
from tera_pl.adapters.tera.layer import TeraLayer
from tera_pl.checkpointing.checkpoint_io import AtomicCheckpointIO

pytestmark = pytest.mark.slow

TARGETS = ["q_proj", "v_proj"]
METHODS = {
    "tera": ("tera_pl.adapters.TeraConfig", {}),
    "loretta": ("tera_pl.adapters.LorettaConfig", {"r": 4, "tensor_rank": 2}),
    "mora": ("tera_pl.adapters.MoraConfig", {"r": 2}),
    "lotr": ("tera_pl.adapters.LotrConfig", {"r": 3}),
    "lora_xs": ("tera_pl.adapters.LoraXsConfig", {"r": 4}),
    "nola": ("tera_pl.adapters.NolaConfig", {"r": 2, "k": 9}),
    "lora": ("peft.LoraConfig", {"r": 2, "modules_to_save": ["lm_head"]}),
    "dora": ("peft.LoraConfig", {"r": 2, "use_dora": True}),
    "hira": ("peft.HiraConfig", {"r": 2}),
    "vera": ("peft.VeraConfig", {"r": 4}),
    "randlora": ("peft.RandLoraConfig", {"r": 4}),
    "ia3": ("peft.IA3Config", {"feedforward_modules": []}),
    "road": ("peft.RoadConfig", {"group_size": 4}),
    "prompt_tuning": ("peft.PromptTuningConfig", {"num_virtual_tokens": 3}),
    "full": None,
}
# The merged model is run by somebody who has neither of these.
PLAIN = """
import sys
sys.modules["tera_pl"] = sys.modules["peft"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("What color is the sky", return_tensors="pt")["input_ids"]
torch.save(model(input_ids=ids).logits, sys.argv[2])
"""


@pytest.fixture
def trained(tiny_config, tmp_path, monkeypatch):
    """Train a method for two steps; give its last checkpoint."""
    monkeypatch.chdir(tmp_path)

    def train(method, **backbone):
        content = yaml.safe_load(tiny_config.read_text())
        init = content["model"]["init_args"]
        init["adapter"] = None
        if METHODS[method]:
            path, settings = METHODS[method]
            targets = {} if method == "prompt_tuning" else {"target_modules": TARGETS}
            settings = {"task_type": "CAUSAL_LM"} | targets | settings
            init["adapter"] = {"class_path": path, "init_args": settings}
        init["backbone"] |= backbone
        content["trainer"]["max_steps"] = 2
        tiny_config.write_text(yaml.safe_dump(content))
        assert cli.main(["fit", "--config", str(tiny_config)]) == 0
        return "runs/run/version_0/checkpoints/best.ckpt"

    return train


def adapted(folder, **settings):
    """The model of a run as peft loads it."""
    config = peft.PeftConfig.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path, **settings)
    return peft.PeftModel.from_pretrained(base, folder).eval()


def logits(model, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("What color is the sky", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("method", METHODS)
def test_both_folders_give_the_logits_of_the_run(method, trained, tmp_path):
    checkpoint = trained(method)
    run = tmp_path / "runs" / "run" / "version_0"
    if method == "full":
        expected = logits(AutoModelForCausalLM.from_pretrained(run / "model").eval(), run / "model")
    else:
        assert main(["export", "--ckpt_path", checkpoint, "--output", "adapter"]) == 0
        theirs = load_file(run / "adapter" / "adapter_model.safetensors")
        ours = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
        expected = logits(adapted(run / "adapter"), run / "adapter")
        assert torch.equal(logits(adapted("adapter"), "adapter"), expected)
        own = method in ("tera", "loretta", "mora", "lotr", "lora_xs", "nola")
        for folder in (tmp_path / "adapter", run / "adapter"):
            card = (folder / "README.md").read_text()
            assert "library_name: peft" in card
            assert ("import tera_pl.adapters" in card) == own
    if method == "prompt_tuning":
        return
    if method != "full":
        # All singular values of the largest weight update.
        as_lora = ["--output", "lora", "--as", "lora", "--rank", "24"]
        assert main(["export", "--ckpt_path", checkpoint, *as_lora]) == 0
        lora = adapted("lora")
        assert lora.peft_config["default"].peft_type == "LORA"
        torch.testing.assert_close(logits(lora, "lora"), expected, rtol=1e-4, atol=1e-5)
    assert main(["export", "--ckpt_path", checkpoint, "--output", "merged", "--merge"]) == 0
    merged = AutoModelForCausalLM.from_pretrained("merged").eval()
    torch.testing.assert_close(logits(merged, "merged"), expected, rtol=1e-4, atol=1e-5)
    if method != "full":
        report = json.loads((tmp_path / "merged" / "export_report.json").read_text())
        assert report["merged_layers"] == 4
        assert report["largest_weight_error_in_half_steps"] <= 1
        assert report["largest_logit_error"] < 1e-4


def test_merged_folder_needs_neither_this_package_nor_peft(trained, tmp_path):
    checkpoint = trained("tera")
    assert main(["export", "--ckpt_path", checkpoint, "--output", "out", "--merge"]) == 0
    command = [sys.executable, "-c", PLAIN, "out", "logits.pt"]
    subprocess.run(command, check=True, cwd=tmp_path)
    expected = logits(adapted(tmp_path / "runs/run/version_0/adapter"), "out")
    torch.testing.assert_close(torch.load("logits.pt"), expected, rtol=1e-4, atol=1e-5)
    assert "packed" not in (tmp_path / "out" / "config.json").read_text()
    for name in ("generation_config.json", "tokenizer.json", "README.md"):
        assert (tmp_path / "out" / name).exists()


def test_shards_hold_what_one_file_holds(trained, tmp_path):
    checkpoint = trained("tera")
    arguments = ["export", "--ckpt_path", checkpoint, "--merge"]
    assert main([*arguments, "--output", "one"]) == 0
    assert main([*arguments, "--output", "many", "--max_shard_size", "4KB"]) == 0
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    shards = {name: value for file in files for name, value in load_file(file).items()}
    complete = load_file(tmp_path / "one" / "model.safetensors")
    assert shards.keys() == complete.keys()
    assert all(torch.equal(shards[name], value) for name, value in complete.items())


def test_card_has_scores_and_identity(trained, tiny_config, tmp_path):
    checkpoint = trained("tera")
    assert cli.main(["test", "--config", str(tiny_config), "--ckpt_path", checkpoint]) == 0
    assert main(["export", "--ckpt_path", checkpoint, "--output", "out"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    results = json.loads((tmp_path / "runs/run/version_0/results.json").read_text())
    assert f"| test/accuracy | {results['test']['scores']['test/accuracy']} |" in card
    assert results["settings"]["backbone"]["frozen_weights_sha256"] in card
    assert f"| trained | {results['fit']['resources']['trained']} |" in card
    assert results["settings"]["adapter"]["frozen_sha256"] in card
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["tera_pl", "tera"]


def test_scores_are_those_of_the_run_that_a_checkpoint_lies_in(trained, tiny_config, tmp_path):
    checkpoint = trained("tera")
    assert cli.main(["test", "--config", str(tiny_config), "--ckpt_path", checkpoint]) == 0
    shutil.copy(checkpoint, tmp_path / "runs" / "run" / "other.ckpt")
    path = "runs/run/version_0/../other.ckpt"
    assert main(["export", "--ckpt_path", path, "--output", "out"]) == 0
    assert "test/accuracy" not in (tmp_path / "out" / "README.md").read_text()


def merge_too_much(monkeypatch):
    """A method whose merge adds another weight than its forward pass."""
    whole = TeraLayer.merge

    def merge(layer, *args, **kwargs):
        whole(layer, *args, **kwargs)
        layer.get_base_layer().weight.data.mul_(1.001)

    monkeypatch.setattr(TeraLayer, "merge", merge)


def save_another(monkeypatch):
    """A file that does not hold what was merged."""
    whole = LlamaForCausalLM.save_pretrained

    def save(model, *args, **kwargs):
        model.lm_head.weight.data[7].neg_()
        whole(model, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save)


def save_nan(monkeypatch):
    whole = LlamaForCausalLM.save_pretrained

    def save(model, *args, **kwargs):
        model.lm_head.weight.data[7] = torch.nan
        whole(model, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save)


WRONG_MERGES = {
    merge_too_much: "_proj would change what it computes, by ",
    save_another: "the merged model's logits differ from the adapted model's by ",
    save_nan: "the merged model's logits differ from the adapted model's by nan",
}


def test_wrong_merge_ends_the_command_and_leaves_nothing(trained, tmp_path, monkeypatch, capfd):
    checkpoint = trained("tera")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for damage, message in WRONG_MERGES.items():
        for output in ("new", "empty"):
            capfd.readouterr()
            with monkeypatch.context() as patch:
                damage(patch)
                arguments = ["--ckpt_path", checkpoint, "--output", output, "--merge"]
                assert main(["export", *arguments]) == 1
            lines = capfd.readouterr().err.splitlines()
            (stopped,) = [line for line in lines if line.startswith(("stopped: ", "error: "))]
            assert message in stopped
            # Neither under the target's name nor beside it.
            assert sorted(tmp_path.rglob("*")) == before
    assert main(["export", "--ckpt_path", checkpoint, "--output", "new", "--merge"]) == 0


def refusal(capfd, *arguments):
    assert main(["export", *arguments]) == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    return error


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(trained, tmp_path, capfd):
    checkpoint = trained("prompt_tuning")
    capfd.readouterr()
    run = ["--ckpt_path", checkpoint, "--output", "out"]
    assert "nothing to merge" in refusal(capfd, *run, "--merge")
    assert not (tmp_path / "out").exists()
    assert "no file nowhere.ckpt" in refusal(capfd, "--ckpt_path", "nowhere.ckpt", *run[2:])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "out is not empty" in refusal(capfd, *run)
    (tmp_path / "out" / "mine").unlink()
    path = tmp_path / "runs" / "run" / "version_0" / "checkpoints" / "cut.ckpt"
    path.write_bytes((tmp_path / checkpoint).read_bytes()[:1000])
    cut = ["--ckpt_path", str(path), "--output", "out"]
    assert "cut off or damaged" in refusal(capfd, *cut)


def test_checkpoint_of_another_base_is_refused_and_a_moved_one_is_named(
    trained, tiny_backbone, tmp_path, capfd
):
    base = shutil.copytree(tiny_backbone, tmp_path / "base")
    checkpoint = trained("tera", path=str(base))
    expected = load_file("runs/run/version_0/adapter/adapter_model.safetensors")
    base.rename(tmp_path / "moved")
    capfd.readouterr()
    arguments = ["--ckpt_path", checkpoint, "--output", "out"]
    assert str(base) in refusal(capfd, *arguments)
    assert main(["export", *arguments, "--backbone", "moved"]) == 0
    found = load_file("out/adapter_model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    model = AutoModelForCausalLM.from_pretrained("moved")
    # One value of one weight.
    model.model.layers[1].mlp.down_proj.weight.data[5, 7] += 1
    model.save_pretrained("moved")
    capfd.readouterr()
    error = refusal(capfd, "--ckpt_path", checkpoint, "--output", "out2", "--backbone", "moved")
    assert "the base model at 'moved' is not the one" in error
    assert "backbone.frozen_weights_sha256 is" in error


def test_no_class_of_the_configuration_is_called_or_needed(trained, tmp_path, capfd):
    checkpoint = trained("tera")
    config = tmp_path / "runs" / "run" / "version_0" / "config.yaml"
    content = yaml.safe_load(config.read_text())
    bomb = {"class_path": "os.system", "init_args": {"command": "touch executed"}}
    init = content["model"]["init_args"]
    for name in ("adapter", "optimizer", "metric", "schedule", "generation"):
        init[name] = bomb
    content |= {"trainer": {"logger": bomb, "callbacks": [bomb], "strategy": bomb}, "data": bomb}
    config.write_text(yaml.safe_dump(content))
    assert main(["export", "--ckpt_path", checkpoint, "--output", "one"]) == 0
    config.write_text(yaml.safe_dump({"model": bomb}))
    assert main(["export", "--ckpt_path", checkpoint, "--output", "two", "--merge"]) == 0
    config.unlink()
    assert main(["export", "--ckpt_path", checkpoint, "--output", "three"]) == 0
    assert not (tmp_path / "executed").exists()


SETTINGS = [
    ({"peft_type": "os.system"}, "adapter is 'os.system'"),
    ({"peft_type": ["TERA"]}, "adapter is ['TERA']"),
    ({"megatron_config": {"a": 1}, "megatron_core": "this"}, "has megatron_config"),
    ({"tokenizer_kwargs": {"trust_remote_code": True}}, "has megatron_config or"),
    ({"unknown": 1}, "adapter settings are invalid: "),
    ({"ranks": 5}, "adapter settings are invalid: "),
    ({"target_modules": 5}, "adapter settings are invalid: "),
    ({"seed": 9}, "frozen_sha256: "),
]
RESULTS = [
    ("{", "results.json is damaged"),
    ("[1]", "results.json is damaged: it is '[1]'"),
    ('{"fit": 3}', "results.json is damaged: fit is '3'"),
    ('{"test": {"scores": {"a": "b"}}}', "results.json is damaged: it lacks 'settings'"),
]


def test_settings_of_an_adapter_are_plain_values_and_results_are_checked(trained, tmp_path, capfd):
    checkpoint, output = trained("tera"), ["--output", "out"]
    capfd.readouterr()
    for changes, message in SETTINGS:
        content = AtomicCheckpointIO().load_checkpoint(checkpoint)
        content["tera_pl"]["adapter"] |= changes
        AtomicCheckpointIO().save_checkpoint(content, "edited.ckpt")
        assert message in refusal(capfd, "--ckpt_path", "edited.ckpt", *output)
    for text, message in RESULTS:
        (tmp_path / "runs" / "run" / "version_0" / "results.json").write_text(text)
        assert message in refusal(capfd, "--ckpt_path", checkpoint, *output)
    assert not (tmp_path / "out").exists()
