"""LightningModules: from a batch to a loss and to generated text."""

from tera_pl.tasks.causal_lm import CausalLMTask
from tera_pl.tasks.generation import Generation
from tera_pl.tasks.schedule import Schedule

__all__ = ["CausalLMTask", "Generation", "Schedule"]
