"""FSDP: while a model trains, its weights, gradients and optimizer state are split over the processes.

Source: torch.distributed.fsdp.fully_shard (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from timm.models import group_parameters
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from finetune.errors import ModelError


class FSDP(ModelParallelStrategy):
    """Lightning's strategy, with a model that is split over all processes and with the checkpoints of DDP.

    Lightning's own `fsdp` is FSDP of the first version, for GPUs alone; this is the second. Its `ModelParallelStrategy`
    numbers the optimizer's state by the model's parameters, where all others number it by the optimizer's groups.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Before it, as with DDP: the setup asks for the training loader, which begins where the run stood."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning shall call `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Takes the number of processes, which is known by now."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, on the CPU of the first process; nothing in the others. Called on all."""

        def whole(tensor: Tensor) -> Tensor:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            return full.cpu() if self.is_global_zero else full.new_empty(0)  # let go before the next one comes

        found: dict[str, Any] = tree_map_only(Tensor, whole, optimizer.state_dict())
        return found if self.is_global_zero else {}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The whole of it, on every process."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each process takes its part."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.lightning_module, checkpoint["state_dict"], options=options)  # type: ignore[arg-type]

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its part."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            parts = {
                number: {name: _part_of(value, parameters[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": parts})


def _part_of(value: Any, parameter: Tensor) -> Any:
    """What this process has of an optimizer's value, if it is split as the parameter is."""
    if isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def split(model: nn.Module, mesh: DeviceMesh) -> None:
    """Split a model over the processes, in place and with the first process's weights; called on all of them.

    A block's weights are gathered when it computes, and let go after it. What is in no block (position embeddings, a
    classifier of one layer) stays gathered from the forward pass to the backward pass.

    Args:
        model: A timm model.
        mesh: Of one dimension.

    Raises:
        ModelError: PyTorch cannot split it; some models have a parameter that is a single number.
    """
    model.to(memory_format=torch.contiguous_format)  # fully_shard takes no other; maps stay channels_last
    whole, kind = model.state_dict(), type(model).__name__  # fully_shard gives it another class
    parts = [model.get_submodule(name) for name in blocks(model)]
    for part in parts:
        part.register_forward_hook(_copy_of_view)
    try:
        for module in (*parts, model):
            fully_shard(module, mesh=mesh)
    except (ValueError, NotImplementedError) as error:
        raise ModelError(
            f"--strategy fsdp: PyTorch cannot split {kind}: {error}; take ddp, with --grad-checkpointing or a smaller "
            "--device-batch-size where memory is short"
        ) from error
    set_model_state_dict(model, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))


def _copy_of_view(block: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
    """An operation in place on a view would take away the hook that gathers the block's weights for its gradient."""
    return out.clone() if isinstance(out, Tensor) and out._is_view() else out


def blocks(model: nn.Module) -> Iterator[str]:
    """Names of the largest modules that have parts, and weights of a single layer by timm's `group_matcher`.

    Where timm does not tell layers apart, all is one layer.
    """
    matcher: Any = getattr(model, "group_matcher", lambda coarse: lambda name: 0)
    groups = group_parameters(model, matcher(coarse=False))
    layer_of = {name: number for number, names in groups.items() for name in names}

    def descend(prefix: str, module: nn.Module) -> Iterator[str]:
        for own, child in module.named_children():
            name = f"{prefix}{own}"
            layers = {layer_of[parameter] for parameter in layer_of if parameter.startswith(f"{name}.")}
            is_container = isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict)
            if len(layers) == 1 and any(child.children()) and not is_container:
                yield name
            else:
                yield from descend(f"{name}.", child)

    yield from descend("", model)


def is_split(model: nn.Module) -> bool:
    """Whether `split` has been here."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def here(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, in the same memory; of one that is not split, all of it."""
    part: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers (running statistics), as DDP does; called on all of them."""
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)
