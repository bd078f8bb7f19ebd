"""Parameters that ``fully_shard`` (FSDP2) has cut along their rows, outside of forward passes, which see them whole.

Every process has to call these functions alike: they communicate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


def is_distributed() -> bool:
    """Whether several processes train one model."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of a tensor only."""
    if not distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor  # late: a second of imports

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, in every process; itself where it is not sharded."""
    gathered: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def local(tensor: Tensor) -> Tensor:
    """What this process holds of `tensor`, which may be nothing."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


@torch.no_grad()
def copy_whole(target: Tensor, source: Tensor) -> None:
    """Write a tensor that every process has whole to one that may be sharded."""
    if not is_sharded(target):
        target.copy_(source)
        return
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = target
    source = source.expand(target.shape).contiguous()
    target.copy_(distribute_tensor(source, sharded.device_mesh, sharded.placements, src_data_rank=None))


def reshard(model: nn.Module) -> None:
    """Shard parameters again that a forward pass left whole: what is written to them would be lost."""
    for module in _wrapped(model):
        module.reshard()


@torch.no_grad()
def unwrap(model: nn.Module) -> None:
    """Make `model` an ordinary one, with whole parameters in every process, in place."""
    wrapped = _wrapped(model)
    if not wrapped:
        return
    reshard(model)
    made: dict[int, nn.Parameter] = {}  # tied ones stay so
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and is_sharded(parameter):
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
    for module in wrapped:
        # PyTorch has no way back: its hooks would gather the parameters that were replaced.
        state = module._get_fsdp_state()
        state._pre_forward_hook_handle.remove()
        state._post_forward_hook_handle.remove()
        module.__class__ = type(module).__mro__[2]  # FSDPX, FSDPModule, X


def _wrapped(model: nn.Module) -> list[Any]:
    if not is_distributed():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]
