"""Lightning's strategy for FSDP2, with the checkpoints of a single process."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from tera_pl.distributed.fsdp2 import full_tensor, load_trained, local_shard_like
from tera_pl.errors import UserError
from tera_pl.private_api.lightning import (
    move_optimizer_state,
    resolve_data_parallel_size,
    strategy_settings,
)
from tera_pl.private_api.torch import tree_map


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy (FSDP2), with the checkpoints of a single process.

    Lightning's own gathers the base weights for every checkpoint and orders the states of the
    optimizer differently. Here a checkpoint is one file with full tensors of the trainable
    parameters, which any number of processes can load.

    Args:
        data_parallel_size: Number of processes; `auto` is all of them.
        tensor_parallel_size: Must be 1: layers are not split.
        save_distributed_checkpoint: No effect; a checkpoint is one file.
        process_group_backend: Backend of torch.distributed; by default that of the device.
        timeout: Longest wait for another process.

    Raises:
        UserError: If `tensor_parallel_size` is not 1.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        tensor_parallel_size: Literal["auto"] | int = 1,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = timedelta(minutes=30),
    ) -> None:
        if tensor_parallel_size not in {"auto", 1}:
            raise UserError(
                f"trainer.strategy: tensor_parallel_size is {tensor_parallel_size}: expected 1: "
                "weights are sharded over processes, but layers are not split"
            )
        super().__init__(data_parallel_size, 1, False, process_group_backend, timeout)

    def setup_environment(self) -> None:
        """Resolve `auto` before the process group starts."""
        resolve_data_parallel_size(self)
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: Lightning restores the optimizer from the checkpoint."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the trainable parameters only, by name."""
        assert self.lightning_module is not None
        named = self.lightning_module.named_parameters()
        return {name: full_tensor(p.detach()).cpu() for name, p in named if p.requires_grad}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather the state of an optimizer as full tensors."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return tree_map(full_tensor, optimizer.state_dict())

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint of any number of processes as one file."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the trainable parameters, which the task has validated."""
        assert self.lightning_module is not None
        load_trained(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Shard the states of the optimizers as their parameters are sharded."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            sharded = {
                index: {
                    name: local_shard_like(value, parameters[index])
                    if isinstance(value, Tensor) and value.shape == parameters[index].shape
                    else value
                    for name, value in entries.items()
                }
                for index, entries in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": sharded})
            move_optimizer_state(optimizer, self.root_device)


def prepare_strategy(strategy: Any) -> Any:
    """Replace Lightning's ModelParallelStrategy by `ShardedStrategy`.

    Args:
        strategy: Value of `trainer.strategy`.

    Returns:
        A `ShardedStrategy` with the same settings; any other strategy unchanged.

    Raises:
        UserError: If it is FSDP1. Lightning's converts the base model to float32, cannot clip
            gradients, and saves the base model instead of the trainable parameters by name.
    """
    if isinstance(strategy, FSDPStrategy) or str(strategy).startswith("fsdp"):
        raise UserError(
            "trainer.strategy: fsdp converts the base to float32 and cannot clip gradients: use "
            "FSDP2 instead, as configs/base/fsdp2.yaml does"
        )
    if type(strategy) is not ModelParallelStrategy:
        return strategy
    return ShardedStrategy(**strategy_settings(strategy))
