"""A refused argument is one line with its key; no function is called in place of a class."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from tera_pl.cli.parsing_errors import explain
from tests.attempts import attempt

MODEL = "--model.init_args"
ADAPTER = f"{MODEL}.adapter.init_args"
DATA = "--data.init_args"
CALLBACKS = "lightning.pytorch.callbacks"


def callback(name, **settings):
    return ["--trainer.callbacks", str([{"class_path": name, "init_args": settings}])]


REFUSED = {
    "num_beams": (
        [f"{MODEL}.generation.num_beams", "0"],
        "model.init_args.generation.num_beams is 0: expected at least 1",
    ),
    "out_modes": ([f"{ADAPTER}.out_modes", "0"], "model.init_args.adapter.init_args.out_modes is"),
    "dropout": (
        [f"{ADAPTER}.dropout", "3"],
        "model.init_args.adapter.init_args.dropout is 3.0: expected at least 0 and less than 1",
    ),
    "max_length": (
        [f"{DATA}.encoding.max_length", "1"],
        "data.init_args.encoding.max_length is 1: expected at least 2",
    ),
    "batch_size": (
        [f"{DATA}.batch_size", "0"],
        "data.init_args.batch_size is 0: expected at least 1",
    ),
    "OFT": (
        [f"{MODEL}.adapter", "peft.OFTConfig", f"{ADAPTER}.r=1", f"{ADAPTER}.oft_block_size=4"],
        "model.init_args.adapter (OFTConfig): You can only specify either r",
    ),
    "AdaLoRA": (
        [f"{MODEL}.adapter", "peft.AdaLoraConfig"],
        "model.init_args.adapter (AdaLoraConfig): AdaLoRA does not work when `total_step` is None",
    ),
    "rank": (
        [f"{MODEL}.adapter", "peft.LoraConfig", f"{ADAPTER}.r", "0"],
        "model.init_args.adapter (LoraConfig): `r` should be a positive integer",
    ),
    "library's dropout": (
        [f"{MODEL}.adapter", "peft.LoraConfig", f"{ADAPTER}.lora_dropout", "2"],
        "model.init_args.adapter (LoraConfig): dropout probability has to be between 0 and 1",
    ),
    "virtual tokens": (
        [f"{MODEL}.adapter", "peft.PromptTuningConfig", f"{ADAPTER}.num_virtual_tokens", "0"],
        "model.init_args.adapter.init_args.num_virtual_tokens is 0: expected at least 1",
    ),
    "modules to save": (
        [f"{ADAPTER}.modules_to_save", "[lm_haed]"],
        "init_args.modules_to_save: the model has no module named 'lm_haed': did you mean lm_head",
    ),
    "task type": (
        [f"{ADAPTER}.task_type", "SEQ_CLS"],
        "model.init_args.adapter.init_args.task_type is SEQ_CLS: expected CAUSAL_LM, or null",
    ),
    "negative rate": (
        [f"{MODEL}.optimizer.init_args.lr", "-1"],
        "model.init_args.optimizer (AdamW): Invalid learning rate: -1",
    ),
    "rate of nothing": (
        [f"{MODEL}.optimizer.init_args.lr", "0"],
        "model.init_args.optimizer.init_args.lr is 0.0: expected more than 0",
    ),
    "rate that is no number": (
        [f"{MODEL}.optimizer", "torch.optim.SGD", f"{MODEL}.optimizer.init_args.lr", ".nan"],
        "model.init_args.optimizer.init_args.lr is nan: expected a finite number",
    ),
    "betas": (
        [f"{MODEL}.optimizer.init_args.betas", "[1.5, 0.9]"],
        "model.init_args.optimizer (AdamW): Invalid beta parameter at index 0: 1.5",
    ),
    "weight decay": (
        [f"{MODEL}.optimizer.init_args.weight_decay", "-1"],
        "model.init_args.optimizer (AdamW): Invalid weight_decay value: -1.0",
    ),
    "warm-up": (
        [f"{MODEL}.schedule.warmup_steps", "-5"],
        "model.init_args.schedule.warmup_steps is -5: expected at least 0",
    ),
    "metric of another kind": (
        [f"{MODEL}.metric", "torchmetrics.text.BLEUScore"],
        "model.init_args.metric is BLEUScore: expected one of tera_pl.metrics",
    ),
    "accumulation": (
        ["--trainer.accumulate_grad_batches", "0"],
        "trainer.accumulate_grad_batches is 0: expected at least 1",
    ),
    "clipping": (
        ["--trainer.gradient_clip_val", "-1"],
        "trainer.gradient_clip_val is -1: expected at least 0",
    ),
    "validation interval": (
        ["--trainer.val_check_interval", "0"],
        "trainer.val_check_interval is 0: expected a number of batches",
    ),
    "no time": (
        ["--trainer.max_time", "00:00:00:00"],
        "trainer.max_time is 00:00:00:00: fit would train nothing",
    ),
    "less than no time": (
        ["--trainer.max_time", "{minutes: -1}"],
        "trainer.max_time is {'minutes': -1}: fit would train nothing",
    ),
    "strategy": (
        ["--trainer.strategy", "nope"],
        "trainer: You selected an invalid strategy name",
    ),
    "accelerator": (
        ["--trainer.accelerator", "nope"],
        "trainer: You selected an invalid accelerator name",
    ),
    "answers": (
        [f"{MODEL}.generation.max_new_tokens", "1000000000", f"{MODEL}.metric", "null"],
        "model.init_args.generation.max_new_tokens 1000000000: no room for prompts in the 256",
    ),
    **{
        f"nothing to train: {name}": (
            [f"--trainer.{name}", "0"],
            f"trainer.{name} is 0: fit would train nothing",
        )
        for name in ("max_steps", "max_epochs", "limit_train_batches")
    },
    "Shadow": (
        [f"{MODEL}.adapter", "peft.ShadowConfig"],
        "ShadowConfig cannot be trained here with auxiliary_loss_weight 0.05: PEFT adds",
    ),
    "CPT": (
        [
            f"{MODEL}.adapter",
            "peft.CPTConfig",
            f"{ADAPTER}.task_type=CAUSAL_LM",
            *(f"{ADAPTER}.cpt_token_ids=[1]", f"{ADAPTER}.cpt_mask=[1]"),
            *(f"{ADAPTER}.cpt_tokens_type_mask=[1]", f"{ADAPTER}.opt_weighted_loss_type=decay"),
        ],
        "CPTConfig cannot be trained here with opt_weighted_loss_type 'decay': PEFT weighs",
    ),
    "LoRA that reads data": (
        [f"{MODEL}.adapter", "peft.LoraConfig", f"{ADAPTER}.init_lora_weights", "eva"],
        "LoraConfig cannot be trained here with init_lora_weights 'eva': it reads data",
    ),
    "steps": (["--trainer.max_steps", "-2"], "trainer: `max_steps` must be a non-negative integer"),
    "seed": (["--seed_everything", "-1"], "seed_everything: -1 is not in bounds"),
    "standard callback": (
        ["--checkpoint.mode", "nope"],
        "checkpoint (BestCheckpoint): `mode` can be min, max but got nope",
    ),
    "added callback": (
        callback(f"{CALLBACKS}.EarlyStopping", monitor="val/loss", mode="nope"),
        "trainer.callbacks[0] (EarlyStopping): `mode` can be min, max, got nope",
    ),
    "logger without its package": (
        ["--trainer.logger", "lightning.pytorch.loggers.CometLogger"],
        "trainer.logger (CometLogger): ",
    ),
    "EMA": (callback(f"{CALLBACKS}.EMAWeightAveraging"), "EMAWeightAveraging is unsupported: it"),
    "averaging": (callback(f"{CALLBACKS}.WeightAveraging"), "WeightAveraging is unsupported: it"),
    "SWA": (
        callback(f"{CALLBACKS}.StochasticWeightAveraging", swa_lrs=0.1),
        "StochasticWeightAveraging is unsupported: it",
    ),
    "batch size finder": (
        callback(f"{CALLBACKS}.BatchSizeFinder"),
        "trainer.callbacks: BatchSizeFinder is unsupported: it",
    ),
    "rate finder": (
        callback(f"{CALLBACKS}.LearningRateFinder"),
        "trainer.callbacks: LearningRateFinder is unsupported: the rate belongs to",
    ),
    "number for a mapping": (
        ["--config", "{trainer: 5}"],
        "trainer is 5: expected settings by name",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_refused_setting_is_one_line_that_names_its_key(name, tiny_config, capsys):
    arguments, message = REFUSED[name]
    code, errors, _ = attempt(["fit", "--config", str(tiny_config), *arguments], capsys)
    assert code == 2
    (line,) = errors
    assert message in line


def test_what_is_not_refused_is_built(tiny_config, capsys):
    code, errors, cli = attempt(["fit", "--config", str(tiny_config)], capsys)
    assert (code, errors) == (0, [])
    assert not hasattr(cli.model, "model")  # no weights


@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_what_trains_nothing_is_accepted_where_nothing_is_trained(subcommand, tiny_config, capsys):
    arguments = ["--trainer.limit_train_batches=0", "--trainer.max_steps=0"]
    code, told, _ = attempt([subcommand, "--config", str(tiny_config), *arguments], capsys)
    assert (code, told) == (0, [])


class Broken(Callback):
    """Stands for a class of another package."""

    def __init__(self, number: int = 1) -> None:
        raise KeyError("x")


def test_cause_and_traceback_are_there_for_whoever_debugs(tiny_config, capsys, monkeypatch):
    monkeypatch.setenv("TERA_PL_DEBUG", "1")
    arguments = callback(f"{__name__}.Broken", number=3)
    with pytest.raises(ValueError, match=r"callbacks\[0\] \(Broken\): KeyError: 'x'") as error:
        attempt(["fit", "--config", str(tiny_config), *arguments], capsys)
    assert isinstance(error.value.__cause__, KeyError)


def test_internal_error_of_the_project_keeps_its_traceback(tiny_config, capsys, monkeypatch):
    def fail(self, *args, **kwargs):
        raise KeyError("defect")

    monkeypatch.setattr("tera_pl.metrics.ChoiceAccuracy.__init__", fail)
    with pytest.raises(KeyError, match="defect"):
        attempt(["fit", "--config", str(tiny_config)], capsys)


def unannotated(path: str):
    Path(path).touch()


def returns_int(path: str) -> int:
    Path(path).touch()
    return 0


def make_optimizer(lr: float = 0.1) -> type[torch.optim.SGD]:
    return torch.optim.SGD


@pytest.mark.parametrize("key", ["model.init_args.optimizer", "model.init_args.metric"])
@pytest.mark.parametrize("function", ["unannotated", "returns_int"])
def test_function_that_need_not_return_what_is_expected_is_not_called(
    key, function, tiny_config, tmp_path, capsys
):
    proof = tmp_path / "called"
    spec = {"class_path": f"{__name__}.{function}", "init_args": {"path": str(proof)}}
    arguments = [f"--{key}", yaml.safe_dump(spec, default_flow_style=True).strip()]
    code, errors, _ = attempt(["fit", "--config", str(tiny_config), *arguments], capsys)
    assert code == 2
    assert len(errors) == 1
    assert not proof.exists()


SYSTEM = {"class_path": "os.system", "init_args": {"command": "touch {}"}}
COMMANDS = [
    SYSTEM,
    {"class_path": "posix.system", "init_args": {"command": "touch {}"}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "{}"]}},
    {"class_path": "builtins.exec", "init_args": {"source": "open('{}', 'w')"}},
    {"class_path": "logging.os.system", "init_args": {"command": "touch {}"}},
    {"class_path": "functools.partial", "init_args": {"func": "os.system"}},
]
OBJECTS = [
    *(f"model.init_args.{name}" for name in ("metric", "adapter")),
    *(f"trainer.{name}" for name in ("callbacks", "logger", "strategy")),
    "model",
    "data",
]


@pytest.mark.parametrize("subcommand", ["fit", "test"])
@pytest.mark.parametrize(
    ("key", "spec"),
    [*(("model.init_args.optimizer", spec) for spec in COMMANDS), *((k, SYSTEM) for k in OBJECTS)],
)
def test_no_command_is_run(key, spec, subcommand, tiny_config, tmp_path, capsys):
    proof = tmp_path / "called"
    nested = yaml.safe_load(yaml.safe_dump(spec).replace("{}", str(proof)))
    for name in reversed(key.split(".")):
        nested = {name: nested}
    arguments = [subcommand, "--config", str(tiny_config), "--config", yaml.safe_dump(nested)]
    code, errors, _ = attempt(arguments, capsys)
    assert code == 2
    assert len(errors) == 1
    assert not proof.exists()


def test_class_where_any_value_may_stand_is_a_value(tiny_config, tmp_path, capsys):
    proof = tmp_path / "called"
    spec = {"class_path": f"{__name__}.unannotated", "init_args": {"path": str(proof)}}
    text = yaml.safe_dump({"x": spec}, default_flow_style=True).strip()
    arguments = [f"{MODEL}.adapter", "peft.LoraConfig", f"{ADAPTER}.alpha_pattern", text]
    attempt(["fit", "--config", str(tiny_config), *arguments], capsys)
    assert not proof.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    [
        "data.init_args.encoding.pad_token",
        "data.encoding.pad_token",
        "model.init_args.backbone.revision",
        "model.init_args.backbone.attn_implementation",
        "trainer.gradient_clip_val",
    ],
)
@pytest.mark.parametrize("form", ["two", "one", "yaml"])
def test_null_is_null(key, form, tiny_config, capsys):
    nested = None
    for name in reversed(key.split(".")):
        nested = {name: nested}
    given = {
        "two": [f"--{key}", "null"],
        "one": [f"--{key}=null"],
        "yaml": ["--config", yaml.safe_dump(nested)],
    }[form]
    arguments = ["fit", "--config", str(tiny_config)]
    code, _, cli = attempt([*arguments, *given], capsys)
    assert code == 0
    assert cli.config.fit[key.replace("data.encoding", "data.init_args.encoding")] is None


def test_text_that_looks_like_null_is_text(tiny_config, capsys):
    arguments = ["fit", "--config", str(tiny_config), f"{DATA}.encoding.pad_token", "None"]
    _, _, cli = attempt(arguments, capsys)
    assert cli.config.fit.data.init_args.encoding.pad_token == "None"


def test_messages_of_the_parser_name_the_full_key():
    message = explain(
        'Parser key "model":\n  Does not validate against any of the Union subtypes\n'
        "  Errors:\n    - Problem with given class_path 'tera_pl.tasks.CausalLMTask':\n"
        '        Parser key "schedule.name":\n'
        "          Expected a typing.Literal['a', 'b']. Got value: c\n"
        "    - Expected a <class 'NoneType'>\n  Given value: x"
    )
    assert message == "model.init_args.schedule.name: expected one of 'a', 'b', got c"
    assert explain("unrecognized arguments: --x 3") == "unrecognized arguments: --x 3"
