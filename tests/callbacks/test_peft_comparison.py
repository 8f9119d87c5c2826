"""The file has the fields of a published entry, and what PEFT's own tables read of it."""

import json

import pytest
import torch

from tera_pl.callbacks import PeftComparison
from tera_pl.cli import main

pytestmark = pytest.mark.slow

# Fields of hira--llama-3.2-3B-rank32-lr4.5e-3.json, published in method_comparison/MetaMathQA.
RUN_INFO = [
    "created_at",
    "total_time",
    "experiment_name",
    "peft_branch",
    "train_config",
    "peft_config",
    "error_msg",
]
TRAIN_CONFIG = [
    "model_id",
    "dtype",
    "max_seq_length",
    "batch_size",
    "batch_size_eval",
    "max_steps",
    "eval_steps",
    "compile",
    "use_gc",
    "query_template",
    "seed",
    "grad_norm_clip",
    "optimizer_type",
    "optimizer_kwargs",
    "lr_scheduler",
    "use_amp",
    "autocast_adapter_dtype",
    "generation_kwargs",
    "attn_implementation",
    "init_kv_cache_prefix",
]
TRAIN_INFO = [
    "accelerator_memory_reserved_avg",
    "accelerator_memory_max",
    "accelerator_memory_reserved_99th",
    "train_time",
    "file_size",
    "num_trainable_params",
    "num_total_params",
    "status",
    "metrics",
]
VALID = {"step", "valid accuracy", "train loss", "train samples", "train time", "eval time"}
VALID |= {"tokens / sec", "mem allocated avg", "mem reserved avg", "elapsed time"}
TEST = {"step", "test accuracy", "train loss", "train samples", "train total tokens", "forgetting"}
META_INFO = ["model_info", "dataset_info", "package_info", "system_info", "pytorch_info"]
SYSTEM = ["system", "release", "version", "machine", "processor", "accelerator"]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """Four steps of TeRA on MiniWorld with two validations, not tested yet."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["tera_pl"])
        arguments = {
            "config": root / "configs" / "miniature" / "tera.yaml",
            "trainer.max_steps": 4,
            "trainer.val_check_interval": 2,
            "trainer.limit_val_batches": 1,
            "trainer.limit_test_batches": 1,
            "trainer.logger.init_args.save_dir": folder,
            "trainer.logger.init_args.name": "tiny",
            "trainer.callbacks": "tera_pl.callbacks.PeftComparison",
            "model.init_args.schedule.warmup_steps": 1,
            "data.init_args.batch_size": 2,
        }
        assert main(["fit", *(f"--{key}={value}" for key, value in arguments.items())]) == 0
    return folder / "tiny" / "version_0"


def test_layout_is_that_of_a_published_entry(run):
    entry = json.loads((run / "peft_comparison.json").read_text())
    assert list(entry) == ["run_info", "train_info", "meta_info"]
    assert list(entry["run_info"]) == RUN_INFO
    assert list(entry["run_info"]["train_config"]) == TRAIN_CONFIG
    assert list(entry["train_info"]) == TRAIN_INFO
    assert list(entry["meta_info"]) == META_INFO
    assert list(entry["meta_info"]["system_info"]) == SYSTEM
    *valid, test = entry["train_info"]["metrics"]
    assert [set(row) for row in valid] == [VALID, VALID]
    assert set(test) == TEST


def test_numbers_are_those_of_the_run(run):
    entry = json.loads((run / "peft_comparison.json").read_text())
    results = json.loads((run / "results.json").read_text())
    train, resources = entry["train_info"], results["fit"]["resources"]
    assert train["num_trainable_params"] == resources["trained"]
    assert train["num_total_params"] == resources["trained"] + resources["base"]
    assert train["file_size"] == (run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert train["metrics"][-1]["train total tokens"] == resources["train_tokens"]
    assert [row["train samples"] for row in train["metrics"]] == [4, 8, 8]
    assert [row["step"] for row in train["metrics"]] == [2, 4, 4]
    assert train["metrics"][1]["valid accuracy"] == results["fit"]["scores"]["val/accuracy"]
    assert sum(row["train time"] for row in train["metrics"][:2]) == pytest.approx(
        train["train_time"]
    )
    assert entry["run_info"]["experiment_name"] == "tera/tiny"
    assert entry["run_info"]["peft_config"]["peft_type"] == "TERA"
    rate = results["settings"]["optimizer"]["lr"]
    assert entry["run_info"]["train_config"]["optimizer_kwargs"]["lr"] == rate


def test_an_untested_run_is_no_success_and_the_test_makes_it_one(run, root, monkeypatch):
    entry = json.loads((run / "peft_comparison.json").read_text())
    assert entry["train_info"]["status"] == "canceled"
    assert entry["run_info"]["error_msg"] == "trained, not tested"
    assert entry["train_info"]["metrics"][-1]["test accuracy"] is None
    monkeypatch.chdir(root)
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", checkpoint]) == 0
    tested = json.loads((run / "peft_comparison.json").read_text())
    score = json.loads((run / "results.json").read_text())["test"]["scores"]["test/accuracy"]
    assert tested["train_info"]["metrics"][-1]["test accuracy"] == score
    assert tested["train_info"]["status"] == "success"
    assert tested["run_info"]["total_time"] > entry["run_info"]["total_time"]
    assert tested["train_info"]["metrics"][:-1] == entry["train_info"]["metrics"][:-1]


def test_a_step_that_is_passed_over_is_not_measured():
    callback = PeftComparison()
    before = callback.state_dict()
    callback.on_train_batch_end(None, None, {}, {"attention_mask": torch.ones(2, 3)}, 0)
    assert callback.state_dict() == before
