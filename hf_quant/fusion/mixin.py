"""Giving a module another `forward` without taking anything else from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_quant.modules.mixed import Mixed, mixed


class Fused(Mixed):
    """First base of a class made by `mixed`; a subclass computes in one call what the other base does in many.

    `forward` of a subclass hands on to ``super().forward`` whatever it does not know.
    """

    fused: Any
    """What the fast way needs to know."""

    @staticmethod
    def applies(module: nn.Module) -> list[Any]:
        """What `fused` may be for `module`, to be tried in order; empty where the module is not of the kind."""
        raise NotImplementedError

    @classmethod
    def proved(cls, module: nn.Module, facts: Any) -> bool:
        """Whether `module` computes what the fast way does with `facts`, whatever its weights become.

        Tried on rows with a mean, with outliers and of all scales, and compared element by element.
        """
        raise NotImplementedError

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Rows on which both ways of `module`, as it is, are compared once it is proved."""
        raise NotImplementedError

    @staticmethod
    def tolerance(module: nn.Module) -> float:
        """Largest difference of both ways, relative to the largest number of a row."""
        raise NotImplementedError

    @staticmethod
    def call(module: nn.Module, *inputs: torch.Tensor) -> Any:
        """Call the part of `module` that is fused."""
        return module(*inputs)


def fuse_module(module: nn.Module, mixin: type[Fused], facts: Any) -> None:
    """Let `module` compute the way of `mixin` from now on."""
    module.__class__ = mixed(mixin, type(module))
    module.fused = facts


def unfuse_module(module: nn.Module) -> None:
    """Give a fused module its own `forward` back."""
    if isinstance(module, Fused):
        module.__class__ = type(module).__bases__[1]
        del module.fused
