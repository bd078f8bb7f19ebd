"""Encoder blocks that add a residual and normalise: the whole as one native call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_quant.fusion.blocks import (
    FusedActivation,
    FusedBlock,
    Parts,
    dtype_of,
    is_hooked,
    on_native,
    parts_of,
    run_block,
)
from hf_quant.fusion.mixin import Fused, random_rows
from hf_quant.modules.linear import QuantizedLinear


class FusedOutput(FusedBlock):
    """``norm(linear(x) + residual)``, as BERT ends attention and feed-forward."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the original."""
        if len(args) == 2 and not kwargs and (linears := self.linears(args[0])) and _plain(args[1], args[0]):
            return run_block(self.fused, args[0], linears, args[1], layer_norm(self))  # type: ignore[arg-type]
        return super().forward(*args, **kwargs)

    @staticmethod
    def applies(module: nn.Module) -> list[Parts]:
        """One linear, one layer norm of its width, and nothing but dropout beside them."""
        children = dict(module.named_children())
        linears = {name: child for name, child in children.items() if isinstance(child, QuantizedLinear)}
        others = [child for child in children.values() if not isinstance(child, QuantizedLinear | nn.Dropout)]
        norm = layer_norm(module)
        if len(linears) != 1 or norm is None or others != [norm] or on_native(list(linears.values())) is None:
            return []
        return [parts_of(linears)]

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Rows of the width of the linear, and a residual."""
        linear = next(child for child in module.children() if isinstance(child, QuantizedLinear))
        dtype = dtype_of(module)
        return random_rows(linear.in_features, dtype), random_rows(linear.out_features, dtype, seed=1)


class FusedFeedForward(Fused):
    """``norm(second(activation(first(x))) + x)``, where a layer computes it in a method ``feed_forward_chunk``."""

    fused: Parts

    def feed_forward_chunk(self, attention_output: torch.Tensor) -> torch.Tensor:
        """As the original."""
        modules: dict[str, Any] = self._modules  # type: ignore[attr-defined]
        first, second = modules["intermediate"], modules["output"]
        open_way = isinstance(first, FusedActivation) and isinstance(second, FusedOutput)
        if (
            open_way
            and not (is_hooked(first) or is_hooked(second))
            and (one := first.linears(attention_output))
            and (two := second.linears(attention_output))
        ):
            return run_block(self.fused, attention_output, [*one, *two], attention_output, layer_norm(second))
        return super().feed_forward_chunk(attention_output)  # type: ignore[misc]

    @staticmethod
    def applies(module: nn.Module) -> list[Parts]:
        """A layer whose ``intermediate`` and ``output`` are fused already."""
        first, second = getattr(module, "intermediate", None), getattr(module, "output", None)
        if not hasattr(module, "feed_forward_chunk") or not isinstance(first, FusedActivation):
            return []
        if not isinstance(second, FusedOutput):
            return []
        (one,), (two,) = first.fused.names, second.fused.names
        # The activation is in the spec of the first.
        linears: dict[str, Any] = {
            "intermediate": module.get_submodule(f"intermediate.{one}"),
            "output": module.get_submodule(f"output.{two}"),
        }
        if (linears["intermediate"].spec.scheme.input is None) != (linears["output"].spec.scheme.input is None):
            return []
        return [parts_of(linears, _activation_of(first.fused))]

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Rows of the width of the first linear."""
        linear = next(child for child in module.intermediate.children() if isinstance(child, QuantizedLinear))  # type: ignore[union-attr]
        return (random_rows(linear.in_features, dtype_of(module)),)

    @staticmethod
    def call(module: nn.Module, *inputs: torch.Tensor) -> Any:
        """The method that is fused."""
        return module.feed_forward_chunk(*inputs)  # type: ignore[operator]


def layer_norm(module: nn.Module) -> nn.LayerNorm | None:
    """The one layer norm, with a weight and over the last dimension, among the children of `module`."""
    norms = [child for child in module.children() if type(child) is nn.LayerNorm]
    if len(norms) != 1 or norms[0].weight is None or len(norms[0].normalized_shape) != 1:
        return None
    return norms[0]


def _activation_of(parts: Parts) -> int:
    from hf_quant.kernels.native.structs import ProgramSpec

    return ProgramSpec.from_buffer_copy(bytes(parts.spec.tolist())).steps[0].activation


def _plain(residual: Any, input: torch.Tensor) -> bool:
    # The op adds rows to rows.
    if not isinstance(residual, torch.Tensor) or residual.dtype != input.dtype:
        return False
    if residual.requires_grad and torch.is_grad_enabled():
        return False
    return residual.shape[:-1] == input.shape[:-1]
