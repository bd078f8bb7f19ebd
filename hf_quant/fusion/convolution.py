"""Convolutions as one native call, with the batch norm and the activation that follow."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from hf_quant.fusion.activation import activation_function, activation_number
from hf_quant.fusion.agreement import ROUNDING, STEP, ways_agree
from hf_quant.fusion.blocks import bias_of, dtype_of, is_hooked, needs_gradient, on_native
from hf_quant.fusion.mixin import Fused
from hf_quant.kernels.native.structs import ACTIVATIONS, CONVOLUTION_ACTIVATIONS
from hf_quant.modules.convolution import CHILD, OpenedConvolution, is_channels_last
from hf_quant.modules.filters import Steps
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.quantized_filters import QuantizedFilters

_convolution_op = torch.ops.hf_quant.native_convolution.default
_grouped_op = torch.ops.hf_quant.native_grouped_convolution.default
_PLACES = {ACTIVATIONS[name]: place for place, name in enumerate(CONVOLUTION_ACTIVATIONS)}
"""Number of an activation to what the op for convolutions calls it."""
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


class Facts(NamedTuple):
    """What the native call is given of a convolution and of what follows.

    Args:
        convolution: Name of the child that convolves; empty: the module itself.
        norm: Name of the batch norm; empty: none.
        others: The children other than the convolution, by name, as they were when this was tried.
        activation: Number of the activation in the native library; 0: none.
        numbers: Groups, then kernel, stride, dilation and zeros before and after of each dimension.
        geometry: The same, int64.
        none: Empty tensor that stands for what is not there.
    """

    convolution: str
    norm: str
    others: tuple[tuple[str, nn.Module], ...]
    activation: int
    numbers: tuple[int, ...]
    geometry: torch.Tensor
    none: torch.Tensor


class FusedConvolution(Fused):
    """An opened convolution as one native call, which makes no rows of patches in memory.

    Where channels are in groups, there is one for filters whose inputs are quantized.
    """

    fused: Facts

    def convolved(self, input: torch.Tensor) -> torch.Tensor:
        """The convolution of a batch; in one native call where that is allowed."""
        module: Any = self
        if not _is_open(module, input):
            return super().convolved(input)  # type: ignore[misc]
        none = self.fused.none
        return _run(module, self.fused, input, none, none)

    @staticmethod
    def applies(module: nn.Module) -> list[Facts]:
        """The geometry of an opened convolution on native kernels."""
        if not _is_native(module):
            return []
        assert isinstance(module, OpenedConvolution)
        return [_facts(module)]

    @classmethod
    def proved(cls, module: nn.Module, facts: Any) -> bool:
        """True: what is computed otherwise is this package's own `OpenedConvolution`."""
        return True

    @staticmethod
    def call(module: nn.Module, *inputs: torch.Tensor) -> Any:
        """Output with a row for each sample: a row of one channel may be what two large numbers differ by."""
        return module(*inputs).flatten(1)

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """A test batch of ordinary numbers."""
        return (_batch(_convolution_of(module), 1.0).to(dtype_of(module)),)

    @staticmethod
    def tolerance(module: nn.Module) -> float:
        """Tolerance of the comparison: an input may be rounded to the next code."""
        linear: Any = _convolution_of(module)._modules[CHILD]
        return (STEP if linear.spec.scheme.input else 10 * ROUNDING) + 4 * torch.finfo(dtype_of(module)).eps


class FusedConvolutionBlock(FusedConvolution):
    """Convolution, batch norm and activation, ``activation(norm(convolution(x)))``, as one call in evaluation."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output of the original module; in one native call where the input allows it."""
        facts, modules = self.fused, self._modules  # type: ignore[attr-defined]
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor) and not self.training:  # type: ignore[attr-defined]
            convolution = modules[facts.convolution]
            is_same = all(
                modules.get(name) is module and not (module.training or is_hooked(module))
                for name, module in facts.others
            )
            is_asked = is_hooked(convolution) or not isinstance(convolution, OpenedConvolution)
            trains = torch.is_grad_enabled() and any(needs_gradient(module) for _, module in facts.others)
            norm = modules.get(facts.norm)
            is_whole = norm is None or _is_batch_norm(norm)
            if is_same and is_whole and not is_asked and not trains and _takes(convolution, args[0]):
                factor, shift = (facts.none, facts.none) if norm is None else folded(norm)
                return _run(convolution, facts, args[0], factor, shift)
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    @staticmethod
    def applies(module: nn.Module) -> list[Facts]:
        """Facts of a module of a convolution with a batch norm, an activation, or both."""
        convolution, norm, activation, others = "", "", 0, {}
        for name, child in module.named_children():
            if _is_native(child) and not convolution:
                convolution = name
                continue
            others[name] = child
            if isinstance(child, nn.Dropout | nn.Identity):
                continue
            if convolution and not norm and _is_batch_norm(child):
                norm = name
            elif convolution and not activation and not list(child.state_dict()) and not child._modules:
                activation = activation_number(child) or 0
                if not activation or activation not in _PLACES:
                    return []
            else:
                return []
        if not convolution or not (norm or activation) or any(True for _ in module.parameters(recurse=False)):
            return []
        convolving: Any = module._modules[convolution]
        return [_facts(convolving)._replace(
            convolution=convolution, norm=norm, others=tuple(others.items()), activation=activation
        )]  # fmt: skip

    @staticmethod
    def tolerance(module: nn.Module) -> float:
        """Tolerance of the comparison: half precision rounds before the norm takes its mean away, and after."""
        return FusedConvolution.tolerance(module) + 8 * torch.finfo(dtype_of(module)).eps

    @classmethod
    def proved(cls, module: nn.Module, facts: Facts) -> bool:
        """Whether the module computes its parts one after the other, whatever the norm has come to know."""
        try:
            copied = copy.deepcopy(module).float().eval()
        except Exception:  # a class that is not copied by its attributes is left alone
            return False
        convolving: Any = copied._modules[facts.convolution]
        norm = copied._modules.get(facts.norm)
        generator = torch.Generator(device="cpu").manual_seed(0)
        for name in _STATISTICS if norm is not None else ():
            tensor = getattr(norm, name).data
            drawn = torch.randn(tensor.shape, generator=generator, device="cpu")
            tensor.copy_(drawn.abs() + 0.1 if name == "running_var" else drawn)

        def composed(input: torch.Tensor) -> torch.Tensor:
            output = convolving(input)
            if norm is not None:
                shape = (-1, *[1] * (output.ndim - 2))
                factor, shift = folded(norm)
                output = (output.float() * factor.view(shape) + shift.view(shape)).to(output.dtype)
            return activation_function(facts.activation)(output) if facts.activation else output

        cases = [(_batch(convolving, scale),) for scale in (0.01, 1.0, 64.0)]
        return ways_agree(partial(cls.call, copied), lambda input: composed(input).flatten(1), cases)


def on_taps(
    filters: QuantizedFilters, input: torch.Tensor, steps: Steps, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What the native kernel gives for filters that have taps, called as `Filters.forward` is."""
    assert filters.taps is not None
    none, groups = torch.empty(0), input.shape[1] // filters.channels
    geometry = _geometry((groups, *(number for each in steps for number in (*each, 0, 0))))
    taps, sums, scales, grid, is_symmetric = filters.taps
    return _grouped_op(
        input.contiguous(), taps, sums, scales, none if bias is None else bias, grid, geometry, none, none,
        is_symmetric, 0, len(taps),
    )  # fmt: skip


def folded(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a batch norm in evaluation multiplies channels with and adds to them, float32 ``[channels]`` each."""
    weight, bias, mean, variance = (getattr(norm, name).detach().float() for name in _STATISTICS)
    factor = weight * torch.rsqrt(variance + getattr(norm, "eps", 1e-5))
    return factor, bias - mean * factor


def _is_batch_norm(module: nn.Module) -> bool:
    tensors: list[Any] = [getattr(module, name, None) for name in _STATISTICS]
    if module._modules or not all(isinstance(each, torch.Tensor) and each.ndim == 1 for each in tensors):
        return False
    return len({len(each) for each in tensors}) == 1


def _is_native(module: nn.Module) -> bool:
    if not isinstance(module, OpenedConvolution):
        return False
    child = module._modules[CHILD]
    if type(child) is QuantizedFilters:
        return _has_taps(child)
    return type(child) is QuantizedLinear and on_native([child]) is not None


def _has_taps(filters: QuantizedFilters) -> bool:
    if not torch.compiler.is_compiling() and not filters.is_current:
        if filters._visiting() is not None:
            return False
        filters.prepare()
    return filters.taps is not None and not filters.rescaled


def _convolution_of(module: nn.Module) -> OpenedConvolution:
    return next(each for each in module.modules() if isinstance(each, OpenedConvolution))


def _facts(module: OpenedConvolution) -> Facts:
    numbers = _numbers(module)
    return Facts("", "", (), 0, numbers, _geometry(numbers), torch.empty(0, device="cpu"))


def _numbers(module: OpenedConvolution) -> tuple[int, ...]:
    numbers, around = [module.groups], _zeros_around(module)
    for dimension, steps in enumerate(module.steps, 1):
        last = 2 * (len(module.kernel_size) - dimension)  # of what functional.pad takes, the last dimension is first
        numbers += [*steps, *around[last : last + 2]]
    return tuple(numbers)


def _geometry(numbers: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def _is_open(module: Any, input: torch.Tensor) -> bool:
    child = module._modules[CHILD]
    if input.device.type != "cpu" or is_hooked(child):
        return False
    if torch.is_grad_enabled() and (input.requires_grad or needs_gradient(child) or needs_gradient(module)):
        return False
    if module.groups > 1:
        return type(child) is QuantizedFilters and _has_taps(child)
    return on_native([child]) is not None


def _takes(module: OpenedConvolution, input: torch.Tensor) -> bool:
    is_batch = input.dim() == len(module.kernel_size) + 2 and input.shape[1] == module.in_channels
    return is_batch and _is_open(module, input)


def _run(
    module: OpenedConvolution, facts: Facts, input: torch.Tensor, factor: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    child: Any = module._modules[CHILD]
    if module.padding_mode != "zeros":
        input = module.padded(input)
    is_last = is_channels_last(input)
    if module.groups > 1 or not is_last:
        input = input.contiguous()
    numbers = _numbers(module)
    geometry = facts.geometry if numbers == facts.numbers else _geometry(numbers)  # strides may be set by then
    activation = _PLACES[facts.activation]
    if module.groups > 1:
        bias = module._parameters["bias"]
        taps, sums, scales, grid, is_symmetric = child.taps
        output = _grouped_op(
            input, taps, sums, scales, facts.none if bias is None else bias, grid, geometry, factor, shift,
            is_symmetric, activation, module.out_channels, *_sizes(input, numbers),
        )  # fmt: skip
        return output.movedim(1, -1).contiguous().movedim(-1, 1) if is_last else output
    blocks, spec, _ = child.packed
    return _convolution_op(
        input, blocks.unsqueeze(0), spec.unsqueeze(0), bias_of(child, facts.none), geometry, factor, shift,
        activation, module.out_channels, *_sizes(input, numbers),
    )  # fmt: skip


def _zeros_around(module: OpenedConvolution) -> list[int]:
    """What the native call pads with; other than zeros is put around the input before."""
    return module.around if module.padding_mode == "zeros" else [0] * 2 * len(module.kernel_size)


def _sizes(input: torch.Tensor, numbers: tuple[int, ...]) -> Iterator[int]:
    for size, start in zip(input.shape[2:], range(1, len(numbers), 5), strict=True):
        kernel, stride, gap, before, after = numbers[start : start + 5]
        yield (size + before + after - gap * (kernel - 1) - 1) // stride + 1


def _batch(module: OpenedConvolution, scale: float) -> torch.Tensor:
    sizes = [gap * (kernel - 1) + 1 + 3 * stride for kernel, stride, gap in module.steps]
    generator = torch.Generator(device="cpu").manual_seed(0)
    return scale * torch.randn(2, module.in_channels, *sizes, generator=generator, device="cpu")
