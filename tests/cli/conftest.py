"""A finished run from the command line."""

from pathlib import Path

import pytest
import yaml

from tera_pl.cli import main


@pytest.fixture(scope="module")
def config(tiny_backbone, tiny_commonsense, tmp_path_factory) -> Path:
    """A complete configuration on a tiny model: eight optimizer steps, two validations."""
    folder = tmp_path_factory.mktemp("config")
    content = {
        "seed_everything": 1,
        "model": {
            "class_path": "tera_pl.tasks.CausalLMTask",
            "init_args": {
                "backbone": {"path": str(tiny_backbone), "dtype": "float32"},
                "adapter": {
                    "class_path": "tera_pl.adapters.TeraConfig",
                    "init_args": {"target_modules": ["q_proj", "v_proj"]},
                },
                "optimizer": {
                    "class_path": "torch.optim.AdamW",
                    "init_args": {"lr": 0.1, "weight_decay": 0.0},
                },
                "schedule": {"name": "linear", "warmup_steps": 2},
                "generation": {"max_new_tokens": 3},
                "metric": {"class_path": "tera_pl.metrics.ChoiceAccuracy"},
            },
        },
        "data": {
            "class_path": "datamodules.Commonsense170k",
            "init_args": {
                "path": str(tiny_commonsense),
                "tasks": ["ARC-Easy", "openbookqa"],
                "batch_size": 4,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 8,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": "runs", "name": "tiny"},
            },
        },
        "checkpoint": {"monitor": "val/accuracy", "mode": "max"},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> Path:
    """Folder of a finished run: fit, then test of its best checkpoint."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["tera_pl"])
        assert main(["fit", "--config", str(config)]) == 0
        run = folder / "runs" / "tiny" / "version_0"
        checkpoint = str(run / "checkpoints" / "best.ckpt")
        # The saved configuration of a fit runs as it is, also under test.
        saved = str(run / "config.yaml")
        assert main(["test", "--config", saved, "--ckpt_path", checkpoint]) == 0
    return run
