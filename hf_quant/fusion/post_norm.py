"""Encoder blocks that add a residual and normalise: the whole as one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hf_quant.fusion.activation import activation_function
from hf_quant.fusion.blocks import (
    FusedActivation,
    FusedBlock,
    Parts,
    is_hooked,
    on_native,
    others_of,
    parts_of,
    run_block,
)
from hf_quant.fusion.composition import composes
from hf_quant.fusion.mixin import Fused
from hf_quant.modules.linear import QuantizedLinear


class FusedOutput(FusedBlock):
    """Linear, residual and norm, ``norm(linear(x) + residual)``, as one call; BERT ends attention and MLP so."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output of the original module; in one native call where the inputs allow it."""
        if len(args) == 2 and not kwargs and (linears := self.linears(args[0])) and _plain(args[1], args[0]):
            return run_block(self.fused, args[0], linears, args[1], layer_norm(self))  # type: ignore[arg-type]
        return super().forward(*args, **kwargs)

    @staticmethod
    def applies(module: nn.Module) -> list[Parts]:
        """Parts of a module of one linear, one layer norm, and nothing but dropout beside them."""
        children = dict(module.named_children())
        linears = {name: child for name, child in children.items() if isinstance(child, QuantizedLinear)}
        others = [child for child in children.values() if not isinstance(child, QuantizedLinear | nn.Dropout)]
        norm = layer_norm(module)
        if len(linears) != 1 or norm is None or others != [norm] or on_native(list(linears.values())) is None:
            return []
        return [parts_of(linears, others_of(module))]

    @staticmethod
    def composed(module: nn.Module, parts: Parts, *inputs: torch.Tensor) -> Any:
        """``norm(linear(x) + residual)``, step by step."""
        norm = layer_norm(module)
        assert norm is not None
        return norm(module.get_submodule(parts.names[0])(inputs[0]) + inputs[1])

    @staticmethod
    def widths(linears: Sequence[nn.Linear]) -> tuple[int, ...]:
        """Widths of the linear's input, and of the residual."""
        return linears[0].in_features, linears[0].out_features


class FusedFeedForward(Fused):
    """``norm(second(activation(first(x))) + x)``, where a layer computes it in a method ``feed_forward_chunk``."""

    fused: Parts

    def feed_forward_chunk(self, attention_output: torch.Tensor) -> torch.Tensor:
        """Output of the original module; in one native call where the inputs allow it."""
        modules: dict[str, Any] = self._modules  # type: ignore[attr-defined]
        first, second = modules["intermediate"], modules["output"]
        known = isinstance(first, FusedActivation) and isinstance(second, FusedOutput)
        known = known and all(modules.get(name) is module for name, module in self.fused.others)
        if (
            known
            and not self.training  # type: ignore[attr-defined]
            and not (is_hooked(first) or is_hooked(second))
            and (one := first.linears(attention_output))
            and (two := second.linears(attention_output))
        ):
            return run_block(self.fused, attention_output, [*one, *two], attention_output, layer_norm(second))
        return super().feed_forward_chunk(attention_output)  # type: ignore[misc]

    @staticmethod
    def applies(module: nn.Module) -> list[Parts]:
        """Parts of a layer whose ``intermediate`` and ``output`` are fused already."""
        first, second = getattr(module, "intermediate", None), getattr(module, "output", None)
        if not hasattr(module, "feed_forward_chunk") or not isinstance(first, FusedActivation):
            return []
        if not isinstance(second, FusedOutput):
            return []
        (one,), (two,) = first.fused.names, second.fused.names
        halves: dict[str, Any] = {"intermediate": first, "output": second}
        names = (f"intermediate.{one}", f"output.{two}")
        linears: dict[str, Any] = {name: module.get_submodule(name) for name in names}
        if len({linear.spec.scheme.input is None for linear in linears.values()}) > 1:
            return []
        return [parts_of(linears, halves, first.fused.activation)]

    @staticmethod
    def composed(module: nn.Module, parts: Parts, *inputs: torch.Tensor) -> Any:
        """``norm(second(activation(first(x))) + x)``, step by step."""
        first, second = (module.get_submodule(name) for name in parts.names)
        norm = layer_norm(module.get_submodule("output"))
        assert norm is not None
        return norm(second(activation_function(parts.activation)(first(*inputs))) + inputs[0])

    @classmethod
    def proved(cls, module: nn.Module, facts: Parts) -> bool:
        """Whether the layer computes what the fast way does, tried with exact maps in the place of its linears."""
        return composes(
            module,
            facts.names,
            known=cls.call,
            claimed=lambda copied, *inputs: cls.composed(copied, facts, *inputs),
            widths=FusedBlock.widths,
        )

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Test rows of the first half, ``intermediate``."""
        return FusedBlock.inputs(module.get_submodule("intermediate"))

    @staticmethod
    def tolerance(module: nn.Module) -> float:
        """Tolerance of the comparison, that of the first half, ``intermediate``."""
        return FusedBlock.tolerance(module.get_submodule("intermediate"))

    @staticmethod
    def call(module: nn.Module, *inputs: torch.Tensor) -> Any:
        """Call ``feed_forward_chunk``, the method that is fused."""
        return module.feed_forward_chunk(*inputs)  # type: ignore[operator]


def layer_norm(module: nn.Module) -> nn.LayerNorm | None:
    """The one layer norm, with a weight and over the last dimension, among the children of `module`."""
    norms = [child for child in module.children() if type(child) is nn.LayerNorm]
    if len(norms) != 1 or norms[0].weight is None or len(norms[0].normalized_shape) != 1:
        return None
    return norms[0]


def _plain(residual: Any, input: torch.Tensor) -> bool:
    # The op adds rows to rows.
    if not isinstance(residual, torch.Tensor) or residual.dtype != input.dtype:
        return False
    if residual.requires_grad and torch.is_grad_enabled():
        return False
    return residual.shape[:-1] == input.shape[:-1]
