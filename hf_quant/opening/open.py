"""Opening a model for as long as it is worked on, or for good."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from torch import nn

from hf_quant.modules.convolution import open_convolution
from hf_quant.modules.experts import open_experts
from hf_quant.modules.opened import Opened, opened_modules
from hf_quant.modules.recurrent import open_recurrent
from hf_quant.opening.convolutions import convolutions
from hf_quant.opening.experts import Layout, layout_of
from hf_quant.opening.recurrent import is_recurrent

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Opening:
    """What was opened of a model, with the tensors that there were, so that it can be undone.

    Args:
        model: Float, on any device; changed in place.
    """

    def __init__(self, model: nn.Module):
        self.modules: dict[str, tuple[Opened, dict[str, nn.Parameter]]] = {}
        found: dict[Any, Layout | None] = {}
        # All are looked at before one is changed.
        layouts = [(name, module, layout_of(module, found)) for name, module in model.named_modules()]
        convolving = convolutions(model)
        holders: dict[int, Opened] = {}
        for name, module, layout in layouts:
            parameters = {key: p for key, p in module._parameters.items() if p is not None}
            if is_recurrent(module):
                open_recurrent(module)
            elif module in convolving:
                open_convolution(module)
            elif layout is not None:
                open_experts(module, *layout)
            else:
                continue
            assert isinstance(module, Opened)
            self.modules[name] = (module, parameters)
            for stack in module.stacks:
                holder = holders.setdefault(id(parameters[stack.name]), module)
                _share(module, holder, module.parts(stack))

    def keep(self, names: Collection[str]) -> list[str]:
        """Close all modules but those that hold one of these names, which are no longer this opening's to close.

        Returns:
            Names of the modules that were closed.
        """
        closed = []
        for name, (module, parameters) in self.modules.items():
            if not any(each.startswith(f"{name}.") for each in names):
                module.close(parameters)
                closed.append(name)
        self.modules = {}
        return closed

    def close(self) -> None:
        """Make the model what it was."""
        self.keep(())


@contextmanager
def opened(model: nn.Module) -> Iterator[Opening]:
    """Context in which a float model is open; what is not kept is closed at its end."""
    opening = Opening(model)
    try:
        yield opening
    finally:
        opening.close()


def opens_model(function: _Function) -> _Function:
    """Decorator of functions whose first argument is a float `model`: it is open while they run, and then as it was."""

    @functools.wraps(function)
    def call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with opened(model):
            return function(model, *args, **kwargs)

    return cast(_Function, call)


def close(model: nn.Module) -> None:
    """Close all opened modules that hold no quantized weight, in place; what they share stays one."""
    closing = [module for _, module in opened_modules(model) if module.is_float()]
    holders = Counter(id(parameter) for module in closing for parameter in module.parameters())
    shared: dict[tuple[int, ...], tuple[nn.Parameter, Any]] = {}  # with the parts, whose ids would be given away
    for module in closing:
        parts = {stack.name: [module.part(part) for part in module.parts(stack)] for stack in module.stacks}
        keys = {name: tuple(map(id, found)) for name, found in parts.items() if holders[id(found[0])] > 1}
        module.close({name: shared[key][0] for name, key in keys.items() if key in shared})
        shared.update((key, (module._parameters[name], parts[name])) for name, key in keys.items())  # type: ignore[misc]


def _share(module: Opened, holder: Opened, parts: list[str]) -> None:
    """Let parameters of a module's children be those of another's, which had the very same tensor."""
    for part in parts if module is not holder else ():
        child, _, tensor = part.rpartition(".")
        found = holder.part(part)
        if found.shape == module.part(part).shape:
            module.get_submodule(child)._parameters[tensor] = found  # type: ignore[assignment]
