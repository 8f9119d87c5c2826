"""Compile the decoder layers of a model for training."""

import os
import shutil
import sys

from peft import PeftModel
from torch import nn

from tera_pl.errors import UserError
from tera_pl.private_api.transformers import unsplit_modules

KEY = "model.init_args.backbone.compile"


def compile_layers(model: nn.Module) -> None:
    """Compile every decoder layer in place: names of parameters and modules stay.

    All layers share what is compiled, and sizes of batches may vary. What follows the last layer,
    the logits and the loss, is not compiled.

    Args:
        model: The model, with or without an adapter.

    Raises:
        UserError: If the model has no layers, or there is no compiler for its device.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    names = unsplit_modules(base)
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise UserError(f"{KEY}: {type(base).__name__} names no decoder layers: expected false")
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    on_cpu = next(base.parameters()).device.type == "cpu"
    if on_cpu and shutil.which(compiler) is None:
        raise UserError(
            f"{KEY}: there is no C++ compiler {compiler}: install one, name another in the "
            "environment variable CXX, or set it to false"
        )
    for layer in layers:
        layer.compile(dynamic=True)
