"""Views of the decoded numbers of a quantized weight, to which a write would be lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hf_quant.errors import QuantizedWeightError


class DecodedView(torch.Tensor):
    """Part of a decoded weight, such as ``weight[0]`` or a chunk: read like any tensor, never written to.

    On a float weight a write to a view would change the weight; here it would change a copy that nobody reads.
    """

    weight: str
    """Name of the weight that it is part of."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse writes that change anything; results are plain tensors, and a view of a view is one of this kind."""
        kwargs = kwargs or {}
        first = args[0] if args else next(iter(kwargs.values()), None)  # initialisers hand it on by its name
        written = kwargs["out"] if "out" in kwargs else (first if _writes(func) else None)
        if isinstance(written, cls):
            if "out" not in kwargs and _changes_nothing(func, args, kwargs):
                return written
            raise QuantizedWeightError(
                f"a write to part of {written.weight}, which is quantized, would be lost: dequantize() the model, "
                "clone() the part, or keep the module float with modules_to_not_convert"
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        source = next((each for each in (*args, *kwargs.values()) if isinstance(each, cls)), None)
        return result if source is None else _marked(result, source)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        """A plain tensor: what is copied may be written to."""
        return memo.setdefault(id(self), self.clone())

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled as a plain tensor."""
        return self.clone().__reduce_ex__(protocol)


def as_view(value: Any, weight: str) -> Any:
    """What an op that gives views made of the decoded `weight`, as views that refuse writes."""
    if isinstance(value, list | tuple):
        return type(value)(as_view(each, weight) for each in value)
    if type(value) is not torch.Tensor:
        return value
    view = value.as_subclass(DecodedView)
    view.weight = weight
    return view


def _changes_nothing(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a write leaves all numbers as they are, as zeros for the row of padding do in every load."""
    with torch._C.DisableTorchFunctionSubclass():
        before = (args[0] if args else next(iter(kwargs.values()))).clone()
        after = before.clone()
        if args:
            func(after, *args[1:], **kwargs)
        else:
            func(**{**kwargs, next(iter(kwargs)): after})
        return after.shape == before.shape and torch.equal(after, before)


def _writes(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    if name.startswith("__i"):
        return name not in ("__index__", "__int__", "__invert__")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__") and name != "requires_grad_")


def _marked(result: Any, source: DecodedView) -> Any:
    """`result` of an operation on `source`: a view of it refuses writes, too, and anything else is plain."""
    if type(result) in (list, tuple):
        return type(result)(_marked(each, source) for each in result)
    if not isinstance(result, torch.Tensor):
        return result
    with torch._C.DisableTorchFunctionSubclass():
        is_view = result.numel() and result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
        result = result.as_subclass(torch.Tensor)
    return as_view(result, source.weight) if is_view else result
