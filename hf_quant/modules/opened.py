"""Modules whose tensors are taken apart into linears, which are their children and compute in their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from hf_quant.errors import QuantizedWeightError
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.mixed import Mixed
from hf_quant.modules.read_only import as_view
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.tensor import QuantizedTensor
from hf_quant.modules.whole import WholeTensor

_MARK = "_is_hf_initialized"
"""Attribute of modules that Transformers does not draw at random."""


class Whole(NamedTuple):
    """A tensor of an opened module that one child holds.

    Args:
        name: Its name, such as ``"weight"``.
        shape: Its shape.
    """

    name: str
    shape: tuple[int, ...]


class Opened(Mixed, nn.Module):
    """First base of a class of modules that are opened: children compute with what tensors of its own held."""

    stacks: tuple[Any, ...]
    """The tensors that there were, each with its `name` and `shape`."""
    facts: tuple[str, ...] = ("stacks",)
    """Attributes that opening sets and `close` takes away."""

    def open(self, **facts: Any) -> None:
        """Keep what is known of the tensors; they are no parameters any more."""
        # Without the mark Transformers would look for the tensors.
        self.__dict__.update(facts, was_marked=self.__dict__.get(_MARK), **{_MARK: True})

    def views(self, stack: Any, whole: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Parts of one of the tensors, in its memory, by the names of the children's parameters."""
        raise NotImplementedError

    def parts(self, stack: Any) -> list[str]:
        """Names of the children's parameters that hold one of the tensors."""
        return [name for name, _ in self.views(stack, torch.empty(stack.shape, device="meta"))]

    def read(self, stack: Any, whole: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """As `views`, of a tensor that a checkpoint holds."""
        return self.views(stack, whole)

    def part(self, name: str) -> torch.Tensor:
        """One parameter of a child, float or quantized."""
        child, _, tensor = name.rpartition(".")
        found: torch.Tensor = getattr(self.get_submodule(child), tensor)
        return found

    def stacked(self, stack: Any) -> torch.Tensor:
        """One of the tensors that there were, made of what children hold now, decoded where they are quantized."""
        like = self.part(self.parts(stack)[0])
        whole = torch.zeros(stack.shape, dtype=like.dtype, device=like.device)
        for name, view in self.views(stack, whole):
            view.copy_(self.part(name).detach())
        return whole

    def close(self, parameters: dict[str, nn.Parameter] | None = None) -> None:
        """Make the module what it was.

        Args:
            parameters: The tensors that there were, by name, where nothing has changed them since; else they are made
                of what the children hold, which has to be floats.
        """
        found = dict(parameters or {})
        children = set()
        for stack in self.stacks:
            parts = self.parts(stack)
            children |= {part.partition(".")[0] for part in parts}
            if stack.name not in found:
                whole = self.stacked(stack)
                found[stack.name] = (
                    whole if isinstance(whole, nn.Parameter) else nn.Parameter(whole, self.part(parts[0]).requires_grad)
                )
        for child in children:
            del self._modules[child]
        facts, names = self.facts, [stack.name for stack in self.stacks]
        self.__class__ = type(self).__bases__[1]
        self.__dict__[_MARK] = self.__dict__.pop("was_marked")
        for name in facts:
            del self.__dict__[name]
        self._parameters.update({name: found[name] for name in names})

    def expect_stacks(self, names: Collection[str]) -> None:
        """Have empty parameters where tensors of these names were, so that a checkpoint that holds them can be read."""
        for stack in (stack for stack in self.stacks if stack.name in names):
            self._parameters[stack.name] = nn.Parameter(torch.empty(stack.shape, device="meta"), requires_grad=False)

    def forget_stacks(self) -> None:
        """Undo `expect_stacks`."""
        for stack in self.stacks:
            self._parameters.pop(stack.name, None)

    def let_go(self) -> None:
        """Have linears that stayed float own their weights: views would keep whole stacks in memory."""
        for parameter in self.parameters():
            if type(parameter) is nn.Parameter and parameter.untyped_storage().nbytes() > parameter.nbytes:
                parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)

    def is_float(self) -> bool:
        """Whether no weight of a child is quantized."""
        return not any(isinstance(module, QuantizedModule | StoredModule) for module in self.modules())

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """As of any module; floats as they would be given had nobody opened it."""
        state: dict[str, Any] = super().state_dict(*args, prefix=prefix, **kwargs)
        if not self.is_float():
            return state
        for stack in self.stacks:
            names = [prefix + name for name in self.parts(stack)]
            if all(name in state for name in names):
                for name in names:
                    del state[name]
                whole = self.stacked(stack)
                state[prefix + stack.name] = whole if kwargs.get("keep_vars") else whole.detach()
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for stack in self.stacks:
            whole = state_dict.get(prefix + stack.name)
            if whole is not None and tuple(whole.shape) == stack.shape:
                del state_dict[prefix + stack.name]
                state_dict.update((prefix + name, view) for name, view in self.views(stack, whole))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _while_stored(self, stack: Any) -> torch.Tensor | None:
        # Of codes that are still to be read there are no numbers; Transformers asks, to draw what it takes for new.
        if all(module.weights for module in self.modules() if isinstance(module, QuantizedModule)):
            return None
        nothing = torch.empty(stack.shape, device="meta")
        nothing._is_hf_initialized = True  # type: ignore[attr-defined]
        return nothing

    def dtype_of(self, stack: Any) -> torch.dtype:
        """The dtype that one of the tensors seems to have."""
        return self.part(self.parts(stack)[0]).dtype

    def _answer(self, stack: Any) -> torch.Tensor:
        first, dtype = self.part(self.parts(stack)[0]), self.dtype_of(stack)
        if torch.compiler.is_compiling():
            return self.stacked(stack).to(dtype)
        if isinstance(first, QuantizedTensor) or dtype != first.dtype:
            # Most of those who ask want to know the dtype.
            like = first.detach().new_empty(0, dtype=dtype)
            found: Any = WholeTensor(lambda: as_view(self.stacked(stack).to(dtype), stack.name), like, stack.shape)
        else:
            found = self.stacked(stack)
        if not isinstance(found, nn.Parameter):
            found._is_hf_initialized = True  # or Transformers draws numbers for it, which a view would keep
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._parameters and any(stack.name == name for stack in self.__dict__.get("stacks", ())):
            raise QuantizedWeightError(
                f"{name} of a {type(self).__name__} is held by its children, such as {next(iter(self._modules))}: set "
                "what they hold, or dequantize() the model first"
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        # What code of others asks for though it is not there any more.
        for stack in self.__dict__.get("stacks", ()):
            if stack.name == name and name not in self._parameters:
                stored = self._while_stored(stack)
                return self._answer(stack) if stored is None else stored
        return super().__getattr__(name)


def opened_modules(model: nn.Module) -> Iterator[tuple[str, Opened]]:
    """Modules that are opened, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Opened))


def bare_linear() -> nn.Linear:
    """A linear without parameters, which are still to be registered, but for the bias, which is None."""
    linear = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(linear)
    linear.register_parameter("bias", None)
    return linear
