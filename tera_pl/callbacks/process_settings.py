"""Change a setting of the process for the duration of a run."""

from contextlib import ExitStack

from lightning.pytorch import Callback, LightningModule, Trainer


class ProcessSettings(Callback):
    """Restores settings of the process at the end of a run and after an error.

    A subclass registers in `_restore` how each setting that it changes is restored.
    """

    def __init__(self) -> None:
        self._restore = ExitStack()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the settings."""
        self._restore.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the settings."""
        self._restore.close()
