"""Runs of a block with other weights and with quantized inputs, which leave the block as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import UnsupportedModel
from hf_quant.formats import even_format
from hf_quant.formats.rotation import rotate

_CHUNK = 1 << 17
"""Numbers of an input quantized at a time, so that the temporaries stay in cache."""


class BlockRunner:
    """A block in float32, whose quantized linears get their weights anew for each run.

    A weight is ``[out, in]``, rotated where its scheme says so. Inputs of these linears are rotated likewise and, where
    the scheme has a format for them, quantized and decoded; gradients go straight through. Static inputs, whose scales
    are not known yet, take the range of what they hold.

    Args:
        block: Block of a model; neither its tensors nor its mode are changed for good.
        schemes: Schemes of the quantized linears, by their names in the block.

    Raises:
        ConfigError: A scheme has no even grid.
        UnsupportedModel: A name is not that of an ``nn.Linear`` or ``Conv1D``.
    """

    def __init__(self, block: nn.Module, schemes: Mapping[str, Scheme]):
        self._block = block
        self._schemes = schemes
        self.linears = {name: _linear(block, name, scheme) for name, scheme in schemes.items()}
        replaced = {f"{name}.weight" for name in schemes}
        tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
        self._others = {name: _as_float(tensor) for name, tensor in tensors.items() if name not in replaced}
        self._inputs: list[_Inputs] = []

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Context with the block in eval mode and inputs of its linears quantized; both are undone at the end."""
        modes = {module: module.training for module in self._block.modules()}
        shared: dict[tuple[int | None, TensorScheme | None], _Inputs] = {}
        handles = []
        try:
            self._block.eval()
            for name, linear in self.linears.items():
                scheme = self._schemes[name]
                key = (scheme.weight.rotation, scheme.input)
                if key != (None, None):
                    inputs = shared.setdefault(key, _Inputs(*key))
                    handles.append(linear.register_forward_pre_hook(inputs))
            self._inputs = list(shared.values())
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes.items():
                module.training = mode

    def run(self, weights: Mapping[str, torch.Tensor], args: Any, kwargs: Any) -> torch.Tensor:
        """Run the block with these weights, inside `prepared`, and return its first output."""
        replaced = {
            f"{name}.weight": weight.t() if isinstance(self.linears[name], Conv1D) else weight
            for name, weight in weights.items()
        }
        output = functional_call(self._block, {**self._others, **replaced}, _as_float(args), _as_float(kwargs))
        for inputs in self._inputs:
            inputs.last = None
        return output[0] if isinstance(output, tuple) else output


class _Inputs:
    """A forward pre-hook that rotates and quantizes; linears which share an input share the result."""

    def __init__(self, rotation: int | None, scheme: TensorScheme | None):
        self.rotation, self.scheme = rotation, scheme
        self.last: tuple[torch.Tensor, int, torch.Tensor] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        real, *others = args
        if self.last is None or self.last[0] is not real or self.last[1] != real._version:
            self.last = (real, real._version, self._computed(real))
        return (self.last[2], *others)

    def _computed(self, real: torch.Tensor) -> torch.Tensor:
        if self.rotation is not None:
            # One product with the matrix, whose gradient is as cheap; the butterfly's would not be.
            matrix = rotate(torch.eye(self.rotation, device=real.device), self.rotation).to(real.dtype)
            real = (real.unflatten(-1, (-1, self.rotation)) @ matrix).flatten(-2)
        return real if self.scheme is None else _FakeQuantize.apply(real, self.scheme)


class _FakeQuantize(torch.autograd.Function):
    """Quantized and decoded, in the dtype of the input; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, real: torch.Tensor, scheme: TensorScheme) -> torch.Tensor:
        if scheme.granularity == "tensor":
            return _quantized_and_decoded(real, scheme).to(real.dtype)
        decoded = torch.empty_like(real, memory_format=torch.contiguous_format)
        step = max(1, _CHUNK // real.shape[-1])
        for source, target in zip(real.flatten(0, -2).split(step), decoded.flatten(0, -2).split(step), strict=True):
            target.copy_(_quantized_and_decoded(source, scheme))
        return decoded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def _quantized_and_decoded(real: torch.Tensor, scheme: TensorScheme) -> torch.Tensor:
    format = even_format(scheme)
    codes, scale, zero_point = format.quantize_input(real, scheme.group_size, scheme.granularity == "tensor")
    if scheme.group_size is None:
        return format.decode(codes, scale, zero_point)
    return format.decode(codes.unflatten(-1, (-1, scheme.group_size)), scale[..., None]).flatten(-2)


def check_scheme(scheme: Scheme, name: str) -> None:
    """Raise ConfigError if weights of `scheme` have no roundings to learn; `name` is for the message."""
    even_format(scheme.weight, f"{name} is to be stored as {scheme}, but signround, which learns roundings,")


def _linear(block: nn.Module, name: str, scheme: Scheme) -> nn.Module:
    check_scheme(scheme, name)
    try:
        module = block.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear | Conv1D):
        kind = "nothing" if module is None else f"a {type(module).__name__}"
        raise UnsupportedModel(f"{name} of {type(block).__name__} is {kind}; name an nn.Linear or Conv1D within it")
    return module


def _as_float(value: Any) -> Any:
    """`value` with every float tensor in it as float32, apart from any graph and fit for a new one."""
    if isinstance(value, torch.Tensor):
        value = value.detach().to(torch.float32) if value.is_floating_point() else value
        return value.clone() if value.is_inference() else value
    if type(value) in (tuple, list):
        return type(value)(_as_float(item) for item in value)
    if type(value) is dict:
        return {key: _as_float(item) for key, item in value.items()}
    return value
