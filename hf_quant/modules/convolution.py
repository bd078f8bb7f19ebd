"""Convolutions whose filters are rows of a matrix, multiplied with patches of the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hf_quant.modules.filters import Filters, convolved, patches
from hf_quant.modules.mixed import mixed
from hf_quant.modules.opened import Opened, Whole, bare_linear

CLASSES: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CHILD = "filters"


class OpenedConvolution(Opened):
    """First base of the class of an opened ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``.

    Its child `filters` is a linear ``[out, positions * in]`` on the patches of the input, channels innermost. Where
    channels are in groups there is no such product, and `filters`, ``[out, positions * in / groups]``, convolves itself
    (`Filters`). Of a depthwise ``nn.Conv1d`` it is a table whose rows are looked up: only weights are quantized there.
    A grid over a sequence would let later tokens change earlier ones, and language models read such weights themselves.
    """

    stacks: tuple[Whole, ...]
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: int | tuple[int, ...]
    dilation: int | tuple[int, ...]
    groups: int
    padding: str | int | tuple[int, ...]
    padding_mode: str
    output_like: torch.Tensor
    """An empty tensor of the dtype of the model, which that of a stored weight may not be."""
    _reversed_padding_repeated_twice: list[int]

    def views(self, stack: Whole, whole: torch.Tensor) -> Any:
        """The tensor as the child has it, in its memory where channels are innermost there."""
        return iter([(f"{CHILD}.{stack.name}", _rows(whole) if stack.name == "weight" else whole)])

    def stacked(self, stack: Whole) -> torch.Tensor:
        """The parameter, in the memory of the child's where that is not quantized."""
        held = self.part(f"{CHILD}.{stack.name}")
        if stack.name == "bias":
            return held
        return held.unflatten(1, (*stack.shape[2:], stack.shape[1])).movedim(-1, 1)

    def dtype_of(self, stack: Whole) -> torch.dtype:
        """The dtype that the parameter seems to have."""
        return self.output_like.dtype

    def close(self, parameters: dict[str, nn.Parameter] | None = None) -> None:
        """Make the module what it was."""
        del self._buffers["output_like"]
        self._non_persistent_buffers_set.discard("output_like")
        super().close(parameters)
        weight: Any = self._parameters["weight"]
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[batch, in, *space] -> [batch, out, *space]``, or both without the batch."""
        if input.dim() == len(self.kernel_size) + 1:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        if input.dim() != len(self.kernel_size) + 2 or input.shape[1] != self.in_channels:
            expected = ", ".join(map(str, ["batch", self.in_channels, *["size"] * len(self.kernel_size)]))
            raise RuntimeError(f"expected input of shape [{expected}], got {list(input.shape)}")
        return self.convolved(input)

    def convolved(self, input: torch.Tensor) -> torch.Tensor:
        """The convolution of a batch."""
        padded = self.padded(input)
        child: Any = self._modules[CHILD]
        if self.groups > 1:
            bias = self._parameters["bias"]
            if not isinstance(child, nn.Embedding):
                return child(padded, self.steps, bias)
            rows = child(torch.arange(self.out_channels, device=child.weight.device))
            return convolved(padded, rows, self.steps, bias)
        output = child(patches(padded, self.steps)).movedim(-1, 1)
        return output if is_channels_last(input) else output.contiguous()

    @property
    def steps(self) -> list[tuple[int, int, int]]:
        """Size of a filter, step from output to output and from number to number within a patch, of each dimension."""
        stride, dilation = (self._of_each(each) for each in (self.stride, self.dilation))
        return list(zip(self.kernel_size, stride, dilation, strict=True))

    def _of_each(self, size: int | tuple[int, ...]) -> tuple[int, ...]:
        return (size,) * len(self.kernel_size) if isinstance(size, int) else size  # as some models set it afterwards

    @property
    def around(self) -> list[int]:
        """Numbers before and after, of the last dimension first, as ``pad`` of torch takes them."""
        if self.padding_mode != "zeros":
            return self._reversed_padding_repeated_twice
        if isinstance(self.padding, str):
            wide = [gap * (size - 1) if self.padding == "same" else 0 for size, _, gap in reversed(self.steps)]
            return [half for total in wide for half in (total // 2, total - total // 2)]
        return [each for size in reversed(self._of_each(self.padding)) for each in (size, size)]

    def padded(self, input: torch.Tensor) -> torch.Tensor:
        """The input with what is around it."""
        around = self.around
        if not any(around):
            return input
        return functional.pad(input, around, "constant" if self.padding_mode == "zeros" else self.padding_mode)


def is_channels_last(input: torch.Tensor) -> bool:
    """Whether channels are innermost in the memory of a batch ``[batch, channels, *space]``."""
    return not input.is_contiguous() and input.movedim(1, -1).is_contiguous()


def open_convolution(module: nn.Module) -> None:
    """Let the filters of a convolution be rows of a child's matrix, in the memory of its very weight.

    Args:
        module: Of one of `CLASSES`; changed in place.
    """
    parameters: dict[str, Any] = {name: each for name, each in module._parameters.items() if each is not None}
    weight = parameters["weight"]
    weight.data = weight.data.movedim(1, -1).contiguous().movedim(-1, 1)
    rows = nn.Parameter(_rows(weight.data), weight.requires_grad)
    is_grouped = module.groups != 1
    held = ["weight"] if is_grouped or "bias" not in parameters else ["weight", "bias"]
    child: Any = _bare_filters(module, *rows.shape) if is_grouped else bare_linear()
    child.train(module.training)
    child.register_parameter("weight", rows)
    if not is_grouped:
        child.out_features, child.in_features = rows.shape
        child.register_parameter("bias", parameters.get("bias"))
    for name in held:
        del module._parameters[name]
    module.__class__ = mixed(OpenedConvolution, type(module))
    assert isinstance(module, OpenedConvolution)
    module.open(stacks=tuple(Whole(name, tuple(parameters[name].shape)) for name in held))
    module.add_module(CHILD, child)
    module.register_buffer("output_like", weight.data.new_empty(0), persistent=False)


def _bare_filters(module: nn.Module, rows: int, width: int) -> nn.Module:
    found: Any = module
    channels = found.in_channels // found.groups
    with torch.device("meta"):
        if len(found.kernel_size) == channels == 1:
            return nn.Embedding(rows, width)
        return Filters(rows, tuple(found.kernel_size), channels)


def _rows(weight: torch.Tensor) -> torch.Tensor:
    return weight.movedim(1, -1).flatten(1)
