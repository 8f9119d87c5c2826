"""LightningModules: how a batch becomes a loss and generated text."""

from tera_pl.tasks.causal_lm import CausalLMTask, Generation, Schedule

__all__ = ["CausalLMTask", "Generation", "Schedule"]
