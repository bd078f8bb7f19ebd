"""Modules of two classes: one that a model derives from a float class, and the counterpart of the float class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.modules.filters import Filters

FLOATS: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D, nn.Embedding, Filters)
"""The float classes that have counterparts."""

Way = Literal["around", "instead"]
"""How a counterpart computes for a derived class: within the forward of that class, which calls its base's, or in the
place of it."""

_TENSORS = ("_parameters", "_buffers", "_modules")
_OF_HOOKS = frozenset({"forward", "_hf_hook", "_old_forward"})
"""What accelerate puts on a module, for that module alone."""


class Counterpart(nn.Module):
    """Mixin of modules that stand in the place of a float module."""

    float_class: type[nn.Module]
    """Class of the float module: one of `FLOATS`, or derived from it."""
    adopted: frozenset[str] = frozenset()
    """Names of attributes and tensors that the float module had, where its class is a derived one."""
    alone: Callable[..., Any] | None = None
    """The counterpart's own forward, where that of a derived class runs around it; None where nothing does."""

    def call_around(self, *args: Any, **kwargs: Any) -> Any:
        """What the forward of the derived class gives, which calls this one's."""
        return self.float_class.forward(self, *args, **kwargs)


def base_of(float_class: type[nn.Module]) -> type[nn.Module]:
    """The one of `FLOATS` that a class is, or is derived from."""
    return next(base for base in FLOATS if issubclass(float_class, base))


_made: dict[tuple[type[nn.Module], type[Counterpart], Way], type[Counterpart]] = {}


def joined(float_class: type[nn.Module], counterpart: type[Counterpart], way: Way) -> type[Counterpart]:
    """A class that is both `float_class` and `counterpart`, with the name of the second; the same one every time."""
    key = (float_class, counterpart, way)
    if key not in _made:
        names: dict[str, Any] = {
            "__module__": counterpart.__module__,
            "__reduce_ex__": _reduce,
            "float_class": float_class,
        }
        if way == "around" and float_class.forward is not base_of(float_class).forward:
            names |= {"forward": counterpart.call_around, "alone": counterpart.forward}
        # A counterpart that is not of the base itself, as that of Conv1D, has to be found before it.
        base = base_of(float_class)
        whole = counterpart if issubclass(counterpart, base) else type("Both", (counterpart, base), {})
        bases = (whole, float_class) if way == "instead" else (float_class, whole)
        _made[key] = type(counterpart.__name__, bases, names)
    return _made[key]


def as_derived(made: Counterpart, module: nn.Module, way: Way) -> Counterpart:
    """Let a counterpart be of the class of the float module as well, and have what else that module holds, in place.

    Args:
        made: Counterpart of one of `FLOATS`; changed.
        module: Float module of a derived class.
        way: How `made` computes for that class.
    """
    made.__class__ = joined(type(module), type(made), way)
    tensors = [name for kind in _TENSORS for name in module.__dict__[kind]]
    made.adopted = frozenset([*module.__dict__, *tensors]) - _OF_HOOKS
    _adopt(made, module, made.adopted)
    return made


def as_float(restored: nn.Module, module: Counterpart) -> nn.Module:
    """Undo `as_derived`: let a float module of one of `FLOATS` be of the class that `module` stands for, in place."""
    if type(restored) is not module.float_class:
        restored.__class__ = module.float_class
        _adopt(restored, module, module.adopted)
    return restored


@contextmanager
def replaced_output(
    module: Counterpart, replace: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]
) -> Iterator[None]:
    """Context in which a counterpart gives what ``replace(module, args, kwargs, output)`` makes of its own output.

    A hook would see what a derived class makes of that output, and what that class is called with.
    """
    if module.alone is None:
        handle = module.register_forward_hook(replace, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        return
    before: Any = type(module)
    float_class, whole = before.__bases__

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return replace(self, args, kwargs, whole.forward(self, *args, **kwargs))

    inner = type(whole.__name__, (whole,), {"forward": forward})
    names = {"forward": before.forward, "float_class": float_class, "alone": forward}
    module.__class__ = type(before.__name__, (float_class, inner), names)
    try:
        yield
    finally:
        module.__class__ = before


def standing_in(float_class: type[nn.Module], module: nn.Module, product: Callable[..., Any]) -> nn.Module:
    """A module of a derived class that holds what `module` does, and whose base computes what `product` gives.

    Args:
        float_class: Class derived from one of `FLOATS`.
        module: Float module of that class, or its counterpart.
        product: Called with the input that the derived class hands to its base, in the place of the base's forward.
    """
    base = base_of(float_class)
    stand_in = type("StandIn", (base,), {"forward": lambda _, input: product(input)})
    kind: type[nn.Module] = type("StoodIn", (float_class, stand_in), {})
    made = kind.__new__(kind)
    made.__dict__ = dict(module.__dict__)
    return made


def _adopt(made: nn.Module, source: nn.Module, names: Collection[str]) -> None:
    for kind in _TENSORS:
        for name, value in source.__dict__[kind].items():
            if name in names and not hasattr(made, name):
                made.__dict__[kind][name] = value
                made._non_persistent_buffers_set |= {name} & source._non_persistent_buffers_set
    for name, value in source.__dict__.items():
        if name in names and name not in made.__dict__:
            made.__dict__[name] = value


def _reduce(self: Any, protocol: Any) -> Any:
    # The class was made at run time: it is made again from what it was made of.
    key = next(key for key, made in _made.items() if made is type(self))
    return _rebuild, key, self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__


def _rebuild(float_class: type[nn.Module], counterpart: type[Counterpart], way: Way) -> nn.Module:
    made = joined(float_class, counterpart, way)
    return made.__new__(made)
