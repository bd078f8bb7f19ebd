"""Giving a module another `forward` without taking anything else from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Fused:
    """First base of a class made by `fused_class`; a subclass computes in one call what the other base does in many.

    `forward` of a subclass hands on to ``super().forward`` whatever it does not know.
    """

    fused: Any
    """What the fast way needs to know."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class was made at run time: it is made again from the two it was made of.
        assert isinstance(self, nn.Module)
        mixin, original = type(self).__bases__
        return _rebuild, (mixin, original), self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__

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


_made: dict[tuple[type[Fused], type[nn.Module]], type[nn.Module]] = {}


def fused_class(mixin: type[Fused], original: type[nn.Module]) -> type[nn.Module]:
    """`original` with the `forward` of `mixin`; an instance of it is one of `original` still."""
    if (mixin, original) not in _made:
        names = {"__module__": original.__module__}
        _made[mixin, original] = type(original.__name__, (mixin, original), names)
    return _made[mixin, original]


def fuse_module(module: nn.Module, mixin: type[Fused], facts: Any) -> None:
    """Let `module` compute the way of `mixin` from now on."""
    module.__class__ = fused_class(mixin, type(module))
    module.fused = facts


def unfuse_module(module: nn.Module) -> None:
    """Give a fused module its own `forward` back."""
    if isinstance(module, Fused):
        module.__class__ = type(module).__bases__[1]
        del module.fused


def _rebuild(mixin: type[Fused], original: type[nn.Module]) -> nn.Module:
    made = fused_class(mixin, original)
    return made.__new__(made)
