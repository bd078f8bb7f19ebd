"""Blocks of linears as one native call: the numbers between them never leave the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from hf_quant.fusion.activation import activation_function, activation_number
from hf_quant.fusion.agreement import ROUNDING, STEP, rows
from hf_quant.fusion.composition import composes
from hf_quant.fusion.mixin import Fused
from hf_quant.kernels.native import structs
from hf_quant.kernels.native.linear import spec_tensor, step_spec
from hf_quant.modules.linear import QuantizedLinear

_block_op = torch.ops.hf_quant.native_block.default
_linear_op = torch.ops.hf_quant.native_linear.default

_MOST = 3
_ORDINARY = (0.1, 1.0, 8.0)


class Parts(NamedTuple):
    """What a fused block consists of.

    Args:
        names: Names of the linears, in the order in which the op takes them.
        others: The other children by name, as they were when the block was tried.
        activation: Number of the activation in the native library; 0: none.
        spec: Spec of the native program, uint8 ``[bytes]``.
        none: Empty float32 tensor that stands for what is not there.
    """

    names: tuple[str, ...]
    others: tuple[tuple[str, nn.Module], ...]
    activation: int
    spec: torch.Tensor
    none: torch.Tensor


class FusedBlock(Fused):
    """What blocks share: when the fast way is open, and what it is called with."""

    fused: Parts

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output of the original block; in one native call for one input that allows it."""
        if len(args) == 1 and not kwargs and (linears := self.linears(args[0])) is not None:
            return run_block(self.fused, args[0], linears)
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    def linears(self, input: Any) -> list[QuantizedLinear] | None:
        """The linears, or None: in training, where a gradient is needed, or the children are not what they were."""
        if not isinstance(input, torch.Tensor) or self.training:  # type: ignore[attr-defined]
            return None
        modules = self._modules  # type: ignore[attr-defined]
        if any(modules.get(name) is not module or module.training for name, module in self.fused.others):
            return None  # a dropout that was left in training drops numbers
        if torch.is_grad_enabled() and (input.requires_grad or any(needs_gradient(each) for each in modules.values())):
            return None
        if any(is_hooked(each) for each in modules.values()):
            return None
        return on_native([modules[name] for name in self.fused.names])

    @staticmethod
    def composed(module: nn.Module, parts: Parts, *inputs: torch.Tensor) -> Any:
        """What the fast way computes, from the parts of `module`, step by step."""
        raise NotImplementedError

    @staticmethod
    def widths(linears: Sequence[nn.Linear]) -> tuple[int, ...]:
        """Widths of the block's inputs, given its linears."""
        return (linears[0].in_features,)

    @classmethod
    def proved(cls, module: nn.Module, facts: Parts) -> bool:
        """Whether the block computes what the fast way does, tried with exact maps in the place of its linears."""
        return composes(
            module,
            facts.names,
            known=cls.call,
            claimed=lambda copied, *inputs: cls.composed(copied, facts, *inputs),
            widths=cls.widths,
        )

    @classmethod
    def inputs(cls, module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Test rows of ordinary magnitudes, a tensor for each input of the block."""
        linears = [each for each in module.modules() if isinstance(each, QuantizedLinear)]
        dtype = dtype_of(module)
        return tuple(
            rows(width, seed, _ORDINARY).to(dtype).view(4, -1, width) for seed, width in enumerate(cls.widths(linears))
        )

    @staticmethod
    def tolerance(module: nn.Module) -> float:
        """Tolerance of the comparison: a number between two linears may be rounded to the next code."""
        quantized = any(each.spec.scheme.input for each in module.modules() if isinstance(each, QuantizedLinear))
        return (STEP if quantized else 10 * ROUNDING) + 4 * torch.finfo(dtype_of(module)).eps


class FusedGatedMlp(FusedBlock):
    """Gated feed-forward block, ``down(activation(gate(x)) * up(x))``, as one call."""

    @staticmethod
    def applies(module: nn.Module) -> list[Parts]:
        """Parts of a block of three linears, two of which widen, and an activation; each of the two may be the gate."""
        found, activation = quantized_children(module, 3)
        if activation is None:
            return []
        for last in found:
            first, second = (name for name in found if name != last)
            if static_grid(found[first]) != static_grid(found[second]):
                continue
            if found[first].out_features == found[second].out_features == found[last].in_features:
                orders = ((first, second, last), (second, first, last))
                return [
                    parts_of({name: found[name] for name in order}, others_of(module), activation, gated=True)
                    for order in orders
                ]
        return []

    @staticmethod
    def composed(module: nn.Module, parts: Parts, *inputs: torch.Tensor) -> Any:
        """``down(activation(gate(x)) * up(x))``, step by step."""
        gate, up, down = (module.get_submodule(name) for name in parts.names)
        return down(activation_function(parts.activation)(gate(*inputs)) * up(*inputs))


class FusedMlp(FusedBlock):
    """Feed-forward block, ``second(activation(first(x)))``, as one call; a dropout does nothing in evaluation."""

    @staticmethod
    def applies(module: nn.Module) -> list[Parts]:
        """Parts of a block of two linears of opposite widths and an activation."""
        found, activation = quantized_children(module, 2)
        if activation is None:
            return []
        first, second = found.values()
        if first.out_features != second.in_features or first.in_features != second.out_features:
            return []
        return [parts_of(found, others_of(module), activation)]

    @staticmethod
    def composed(module: nn.Module, parts: Parts, *inputs: torch.Tensor) -> Any:
        """``second(activation(first(x)))``, step by step."""
        first, second = (module.get_submodule(name) for name in parts.names)
        return second(activation_function(parts.activation)(first(*inputs)))


class FusedActivation(FusedBlock):
    """Linear and activation, ``activation(linear(x))``, as one call."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output of the original module; in one native call where the input allows it."""
        if len(args) == 1 and not kwargs and (linears := self.linears(args[0])) is not None:
            (linear,) = linears
            parts = self.fused
            input = args[0] if args[0].is_contiguous() else args[0].contiguous()
            return _linear_op(input, linear.packed[0], parts.spec, bias_of(linear, parts.none), linear.out_features)
        return super().forward(*args, **kwargs)

    @staticmethod
    def applies(module: nn.Module) -> list[Parts]:
        """Parts of a module of one linear and an activation."""
        found, activation = quantized_children(module, 1)
        return [] if activation is None else [parts_of(found, others_of(module), activation)]

    @staticmethod
    def composed(module: nn.Module, parts: Parts, *inputs: torch.Tensor) -> Any:
        """``activation(linear(x))``, step by step."""
        return activation_function(parts.activation)(module.get_submodule(parts.names[0])(*inputs))


def on_native(linears: list[Any]) -> list[QuantizedLinear] | None:
    """The linears, unless an adapter has taken the place of one, or a kernel for another device, or scales are new."""
    for linear in linears:
        if not isinstance(linear, QuantizedLinear) or type(linear).forward is not QuantizedLinear.forward:
            return None
        if not torch.compiler.is_compiling() and not linear.is_current:
            if linear._visiting() is not None:
                return None
            linear.prepare()
        if not linear.fuses or linear.rescaled:
            return None
    return linears


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody waits for calls of `module`, or has exchanged its `forward`: a fused block does not call it."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in module.__dict__


def needs_gradient(module: nn.Module) -> bool:
    """Whether a parameter of `module` itself is trained."""
    return any(parameter is not None and parameter.requires_grad for parameter in module._parameters.values())


def static_grid(linear: QuantizedLinear) -> tuple[float, int] | None:
    """Scale and zero point of a static input, which linears need to have in common to share their input."""
    if linear.input_scale is None:
        return None
    return float(linear.input_scale), 0 if linear.input_zero_point is None else int(linear.input_zero_point)


def bias_of(linear: QuantizedLinear, none: torch.Tensor) -> torch.Tensor:
    """The bias of a linear, or the empty tensor `none` that stands for it."""
    bias = linear._parameters["bias"]
    return none if bias is None else bias


def run_block(
    parts: Parts,
    input: torch.Tensor,
    linears: list[QuantizedLinear],
    residual: torch.Tensor | None = None,
    norm: nn.Module | None = None,
) -> torch.Tensor:
    """Run a block in one native call, add `residual`, and normalise by the layer norm `norm`."""
    none = parts.none
    blocks = [linear.packed[0] for linear in linears]
    biases = [bias_of(linear, none) for linear in linears]
    missing = [none] * (_MOST - len(linears))
    input = input if input.is_contiguous() else input.contiguous()
    if residual is None:
        residual = none
    elif not residual.is_contiguous():
        residual = residual.contiguous()
    weight, shift, kind, epsilon = none, none, 0, 0.0
    if norm is not None:
        scale, offset = norm._parameters["weight"], norm._parameters["bias"]
        assert scale is not None
        weight, shift, kind = scale, none if offset is None else offset, structs.LAYER_NORM
        epsilon = float(norm.eps)  # type: ignore[arg-type]
    channels = linears[-1].out_features
    return _block_op(
        input, *blocks, *missing, parts.spec, *biases, *missing, residual, weight, shift, kind, epsilon, channels
    )


def quantized_children(module: nn.Module, count: int) -> tuple[dict[str, QuantizedLinear], int | None]:
    """`count` linears on native kernels and the number of one activation, if there is nothing but dropout beside them.

    The number is None where the children are others, or not all inputs of the linears are of one format.
    """
    found: dict[str, QuantizedLinear] = {}
    activations = []
    for name, child in module.named_children():
        if isinstance(child, QuantizedLinear):
            found[name] = child
        elif isinstance(child, nn.Dropout | nn.Identity):
            continue
        elif not child._modules and not child._parameters and not child._buffers:
            activations.append(child)
        else:
            return found, None
    if len(found) != count or len(activations) != 1 or any(True for _ in module.parameters(recurse=False)):
        return found, None
    if on_native(list(found.values())) is None or len({each.spec.scheme.input is None for each in found.values()}) > 1:
        return found, None
    return found, activation_number(activations[0])


def others_of(module: nn.Module) -> dict[str, nn.Module]:
    """The children of `module` that are no quantized linears."""
    return {name: child for name, child in module.named_children() if not isinstance(child, QuantizedLinear)}


def parts_of(
    linears: dict[str, QuantizedLinear], others: dict[str, nn.Module], activation: int = 0, gated: bool = False
) -> Parts:
    """Parts for a program that runs linears in order, or the first two side by side where one is the gate."""
    steps = [step_spec(linear.operands(), linear.spec) for linear in linears.values()]
    program = structs.ProgramSpec(magic=structs.MAGIC, count=1 if len(steps) == 1 else 2)
    program.steps[0] = steps[0]
    program.steps[0].activation = activation
    if gated:
        program.steps[0].gated, program.steps[0].weight_count = 1, 2
        program.steps[0].weights[1] = steps[1].weights[0]
    if len(steps) > 1:
        program.steps[1] = steps[-1]
    return Parts(tuple(linears), tuple(others.items()), activation, spec_tensor(program), torch.empty(0, device="cpu"))


def dtype_of(module: nn.Module) -> torch.dtype:
    """Dtype of a module's first float parameter; float32 where it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
