"""The commands of `python -m tera_pl`; modules of this package only parse their arguments.

This module imports nothing, so that the list of commands is printed at once.
"""

# Subcommands of LightningCLI: `tera_pl.cli` parses their options.
TRAINER_COMMANDS = {
    "fit": "train and validate a configuration; writes a run directory",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "generate answers with a checkpoint",
}
# Each is the module `tera_pl.commands.<name>`.
COMMANDS = {
    "benchmark": "time every method against the frozen base model",
    "data": "show encoded examples, what is supervised, lengths and cuts, before a run",
    "estimate": "predict parameters, disk space, peak memory and FLOPs of a run",
    "export": "write a checkpoint as an adapter, a LoRA adapter or a merged transformers model",
    "learning_rates": "derive learning rates of methods from that of a reference method",
    "report": "write tables and figures of finished runs",
    "smollm2": "download SmolLM2-135M-Instruct, a real model for runs on a CPU",
    "study": "run or resume a study: learning rate search and seeds per configuration",
    "theory": "draw the figures and print the tables of the paper's theorems",
}
