"""Exported checkpoints: a PEFT adapter or a merged transformers model, with a model card."""
