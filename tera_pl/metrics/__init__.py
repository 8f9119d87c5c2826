"""How answers are extracted from text and scored."""

from tera_pl.metrics.choice import ChoiceAccuracy, extract_choice

__all__ = ["ChoiceAccuracy", "extract_choice"]
