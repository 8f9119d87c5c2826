"""Optional packages: which extra of this package installs each, and the error where one is missing.

A package of an extra is imported inside of the function that needs it, or in a module that is
imported there. `require` comes first, as early as the need is known: before weights are loaded.
"""

import importlib.util

from tera_pl.errors import UserError

# Modules by extra of pyproject.toml.
EXTRAS = {
    "text": ("sacrebleu", "rouge_score", "bert_score", "nltk"),
    "report": ("matplotlib",),
    "quant": ("bitsandbytes",),
    "search": ("optuna",),
    "gguf": ("gguf",),
    "loggers": ("wandb", "mlflow"),
}


def is_installed(module: str) -> bool:
    """Check whether an optional package can be imported, without importing it.

    Args:
        module: Name of its module.

    Returns:
        Whether Python finds the module.
    """
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def require(module: str, need: str) -> None:
    """Refuse to go ahead without an optional package.

    Args:
        module: Name of its module.
        need: What needs it, for the message: a YAML key, an option or a command.

    Raises:
        UserError: If it is not installed; the message names the extra.

    Example:
        >>> require("torch", "backbone")
    """
    if not is_installed(module):
        raise UserError(f"{need} needs {describe_missing(module)}")


def describe_missing(module: str) -> str:
    """Describe how to install an optional package that is missing.

    Args:
        module: Name of its module, or of one inside of it.

    Returns:
        A clause without a period; empty for a module that belongs to no extra.

    Example:
        >>> describe_missing("matplotlib.figure")
        'matplotlib, which is not installed: pip install "tera-pl[report]"'
    """
    name = module.partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
    return f'{name}, which is not installed: pip install "tera-pl[{extra}]"' if extra else ""
