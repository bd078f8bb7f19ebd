"""Classes that are made at run time: a module's own, with something put before it."""

from __future__ import annotations

from typing import Any

from torch import nn


class Mixed:
    """First base of a class that `mixed` makes; an instance of that is one of the other base still."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Without arguments an empty instance, as copies need; with any, a new module of the class that was mixed.

        PEFT makes its own convolutions of ``type(module)``, which are to be plain ones.
        """
        return cls.__bases__[1](*args, **kwargs) if args or kwargs else super().__new__(cls)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class was made at run time: it is made again from what it was made of.
        assert isinstance(self, nn.Module)
        mixins: list[type[Mixed]] = []
        original = type(self)
        while original in _made.values():
            mixin, original = original.__bases__
            mixins.insert(0, mixin)
        return _rebuild, (original, *mixins), self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__


_made: dict[tuple[type[Mixed], type[nn.Module]], type[nn.Module]] = {}


def mixed(mixin: type[Mixed], original: type[nn.Module]) -> type[nn.Module]:
    """A class of `mixin` and `original`, in this order, with the name of the second; the same one every time."""
    if (mixin, original) not in _made:
        names = {"__module__": original.__module__}
        _made[mixin, original] = type(original.__name__, (mixin, original), names)
    return _made[mixin, original]


def _rebuild(original: type[nn.Module], *mixins: type[Mixed]) -> nn.Module:
    for mixin in mixins:
        original = mixed(mixin, original)
    return original.__new__(original)
