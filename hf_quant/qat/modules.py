"""Float modules that compute with the numbers that their quantized counterparts will hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_quant.calibration.pairs import weight_matrix
from hf_quant.config.scheme import Scheme
from hf_quant.formats import float_format
from hf_quant.formats.rotation import rotate
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.filters import Filters, Steps, by_group, convolved
from hf_quant.modules.joined import Counterpart
from hf_quant.qat.input import DynamicInput, StaticInput
from hf_quant.qat.learned_grid import LearnedGrid
from hf_quant.qat.options import QATOptions
from hf_quant.qat.straight_through import Idle, Rotate
from hf_quant.qat.twin import QUANTIZERS, quantized_twins
from hf_quant.qat.weight import WeightQuantizer

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11


class Adapter(Protocol):
    """What is added to a weight before it is rounded, such as the product of two small matrices."""

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight plus what is added, of the shape of `weight`, with gradients."""

    def tensors(self) -> list[Tensor]:
        """Tensors that the addition is computed from."""


class FakeQuantized(Counterpart):
    """Mixin of modules that train on rounded numbers; `weight` stays the float master, the float module's parameter.

    In training it computes in floats, with gradients. In evaluation, where no gradient is asked for, it *is* the
    quantized module: codes are made of the master and computed with by the kernel that inference will use, until the
    master or the grid changes or training goes on. So what is evaluated is what `convert` gives.
    """

    scheme: Scheme
    weight: nn.Parameter
    weight_quantizer: WeightQuantizer
    input_quantizer: DynamicInput | StaticInput
    sharing: list[FakeQuantized]
    """Modules with the same weight, first the one that owns it and saves the grid."""
    name: str = ""
    """Name of the module in the model, for messages."""
    adapter: Adapter | None = None
    """What is added to the master weight; None: nothing."""

    def start(self, scheme: Scheme, name: str, options: QATOptions, owner: FakeQuantized | None) -> None:
        """Add the quantizers of weight and input; `owner` is the module whose weight this one is tied to, or None."""
        self.scheme, self.name = scheme, name
        self.sharing = [self] if owner is None else owner.sharing
        self._twins: tuple[Any, list[QuantizedModule]] | None = None
        """Quantized modules of all that share the weight, after the state they were made of; the owner keeps them."""
        if not scheme.weight.has_scales:
            return
        rows, width = weight_matrix(self, self.weight).shape
        if owner is not None:
            self.sharing.append(self)
        else:
            self.weight_quantizer = WeightQuantizer(scheme.weight, rows, width, options, self.weight.device)
        if scheme.input is None or scheme.input.dynamic:
            self.input_quantizer = DynamicInput(scheme)
        else:
            self.input_quantizer = StaticInput(scheme, width, options, self.weight.device)
        if isinstance(self, Filters):  # whose rows are turned back
            self.input_quantizer.rotation = None

    @property
    def rounding(self) -> WeightQuantizer:
        """The quantizer of the weight, which the owner of a shared weight holds."""
        return self.sharing[0].weight_quantizer

    def matrix(self) -> Tensor:
        """Master weight ``[rows, width]``, with what an adapter adds."""
        return weight_matrix(self, self.weight if self.adapter is None else self.adapter(self.weight))

    @property
    def is_ready(self) -> bool:
        """Whether every grid is initialised, as that of a static input is not before it was observed."""
        static = getattr(self, "input_quantizer", None)
        return not isinstance(static, StaticInput) or static.grid.is_initialised

    def twin(self) -> QuantizedModule | None:
        """The quantized module to evaluate with; None where this one has to do."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        if not self.scheme.weight.has_scales or not all(member.is_ready for member in self.sharing):
            return None
        owner = self.sharing[0]
        state = [tensor for member in self.sharing for tensor in (*member.parameters(), *member.buffers())]
        state += [] if owner.adapter is None else owner.adapter.tensors()
        key = tuple((id(tensor), tensor.data_ptr(), tensor._version) for tensor in state)
        if owner._twins is None or owner._twins[0] != key:
            owner._twins = None  # before others are made
            owner._twins = (key, quantized_twins(self.sharing))
        return owner._twins[1][next(i for i, member in enumerate(self.sharing) if member is self)]

    def with_idle_grids(self, output: Tensor) -> Tensor:
        """The output with idle grids of this module in its graph, so that they get gradients of zero."""
        quantizers = [getattr(self, name, None) for name in QUANTIZERS] if torch.is_grad_enabled() else []
        grids = [grid for each in quantizers if isinstance(grid := getattr(each, "grid", None), LearnedGrid)]
        idle = [parameter for grid in grids for parameter in grid.idle_parameters()]
        return Idle.apply(output, *idle) if idle else output

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; quantized modules for evaluation are made anew after every change of it."""
        self.sharing[0]._twins = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self.sharing[0]._twins = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_twins": None}


class FakeQuantizedLinear(FakeQuantized, nn.Linear):  # type: ignore[misc]
    """``nn.Linear`` on rounded weights and inputs."""

    float_class = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """``input @ weight.T + bias`` on rounded numbers; in the dtype of `input`, or of autocast."""
        if (twin := self.twin()) is not None:
            return twin(input)
        return self.with_idle_grids(_product(self, input))


class FakeQuantizedConv1D(FakeQuantized, Conv1D):
    """``Conv1D`` on rounded weights and inputs; the master stays ``[in, out]``."""

    float_class = Conv1D

    def forward(self, x: Tensor) -> Tensor:
        """``x @ weight + bias`` on rounded numbers; in the dtype of `x`, or of autocast."""
        if (twin := self.twin()) is not None:
            return twin(x)
        return self.with_idle_grids(_product(self, x))


class FakeQuantizedEmbedding(FakeQuantized, nn.Embedding):  # type: ignore[misc]
    """``nn.Embedding`` on rounded rows; only those looked up are rounded."""

    float_class = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:
        """Gather rounded rows of the table: indices ``[...]`` to ``[..., embedding_dim]``."""
        if (twin := self.twin()) is not None:
            return twin(input)
        looked_up = super().forward(input)
        if not self.scheme.weight.has_scales:
            return looked_up.to(float_format(self.scheme.weight).dtype).to(self.weight.dtype)
        rows = looked_up.reshape(-1, self.embedding_dim)
        rounded = self.rounding(rows, input.reshape(-1), self.weight)
        if self.scheme.weight.rotation is not None:
            rounded = Rotate.apply(rounded, self.scheme.weight.rotation)
        return self.with_idle_grids(rounded.view(looked_up.shape).to(self.weight.dtype))


class FakeQuantizedFilters(FakeQuantized, Filters):
    """`Filters` on rounded weights and inputs."""

    float_class = Filters

    def forward(self, input: Tensor, steps: Steps, bias: Tensor | None = None) -> Tensor:
        """The convolution of a padded batch: ``[batch, in, *space] -> [batch, out, *outputs]``."""
        if (twin := self.twin()) is not None:
            return twin(input, steps, bias)
        if not self.scheme.weight.has_scales:
            dtype = float_format(self.scheme.weight).dtype
            bias = None if bias is None else bias.to(dtype)
            return convolved(input.to(dtype), self.weight.to(dtype), steps, bias).to(input.dtype)
        weight = self.rounding(self.matrix())
        if self.scheme.weight.rotation is not None:
            weight = Rotate.apply(weight, self.scheme.weight.rotation)
        rounded = input if self.scheme.input is None else self.input_quantizer(by_group(input, self)).view(input.shape)
        output = convolved(rounded.to(weight.dtype), weight, steps, None if bias is None else bias.to(weight.dtype))
        return self.with_idle_grids(output.to(input.dtype))


FAKES: dict[type[nn.Module], type[FakeQuantized]] = {
    nn.Linear: FakeQuantizedLinear,
    Conv1D: FakeQuantizedConv1D,
    nn.Embedding: FakeQuantizedEmbedding,
    Filters: FakeQuantizedFilters,
}
"""Class of a float module to the class that trains in its place."""


def _product(module: FakeQuantized, input: Tensor) -> Tensor:
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    matrix = module.matrix()
    if not module.scheme.weight.has_scales:
        dtype = float_format(module.scheme.weight).dtype
        output = nn.functional.linear(input.to(dtype), matrix.to(dtype), None if bias is None else bias.to(dtype))
        return output.to(input.dtype)
    rounded = module.input_quantizer(input)
    weight = module.rounding(matrix)
    if torch.is_autocast_enabled(input.device.type):
        return nn.functional.linear(rounded, weight, bias)
    output = nn.functional.linear(rounded.float(), weight, None if bias is None else bias.float())
    return output.to(input.dtype)


def dequantized(module: FakeQuantized) -> Tensor:
    """The float32 weight ``[rows, width]`` that training computes with now, turned back where the scheme rotates it."""
    with torch.no_grad():
        rows = module.rounding(module.matrix())
    rotation = module.scheme.weight.rotation
    return rows if rotation is None else rotate(rows, rotation)
