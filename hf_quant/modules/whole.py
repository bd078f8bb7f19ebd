"""A tensor that is made of others when its numbers are asked for, and not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

_Tensor = torch.Tensor

_FACTS: frozenset[Any] = frozenset(
    getattr(_Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "is_meta")
) | {
    _Tensor.size,
    _Tensor.dim,
    _Tensor.numel,
    _Tensor.nelement,
    _Tensor.element_size,
    _Tensor.is_floating_point,
    _Tensor.is_complex,
    _Tensor.__len__,
}
"""What may be asked without the numbers."""


class WholeTensor(_Tensor):
    """A tensor of which shape, dtype and device are there; its numbers are made for each operation that reads them.

    Args:
        make: Function that gives the numbers, a plain tensor of this shape, dtype and device.
        like: An empty tensor of its dtype and device.
        shape: Its shape.
    """

    make: Callable[[], torch.Tensor]

    @staticmethod
    def __new__(cls, make: Callable[[], torch.Tensor], like: torch.Tensor, shape: tuple[int, ...]) -> Any:
        """See the class."""
        made: Any = _Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        made.make = make
        return made

    def __init__(self, *args: Any) -> None:
        """Made by ``__new__``."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype}, {self.device})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.make().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self.make().clone()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Facts as they are; anything else of the numbers."""
        if func in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return func(*tree_map(_made, args), **tree_map(_made, kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Of the numbers."""
        return func(*tree_map(_made, args), **tree_map(_made, kwargs or {}))


def _made(value: Any) -> Any:
    return value.make() if isinstance(value, WholeTensor) else value
