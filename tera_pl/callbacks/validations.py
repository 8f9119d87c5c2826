"""Write the scores of every validation while a run trains."""

import json
from typing import Any

from lightning.pytorch import Callback, Trainer

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.run_directory import run_directory

VALIDATIONS = "validations.json"


class ValidationScores(Callback):
    """Write `validations.json`: step and scores of every validation of `fit` so far.

    Another process can watch a run by it, as the search of a study does. A resumed run has those
    before its checkpoint too.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Add a validation and write the file."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self._rows.append({"step": trainer.global_step, **scores})
        path = run_directory(trainer) / VALIDATIONS
        if trainer.is_global_zero:
            write_atomically(path, json.dumps(self._rows, indent=2) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Save the validations so far."""
        return {"rows": list(self._rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the validations before the checkpoint."""
        self._rows = list(state_dict["rows"])
