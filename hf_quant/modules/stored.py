"""Modules whose weight is stored in a float format of its own, whatever the dtype of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from transformers.pytorch_utils import Conv1D

from hf_quant.config.scheme import Scheme
from hf_quant.formats import float_format
from hf_quant.modules.filters import Filters, Steps, convolved
from hf_quant.modules.joined import Counterpart

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11


class StoredModule(Counterpart):
    """Mixin: `weight` keeps the dtype that the scheme names when the model is cast."""

    scheme: Scheme
    weight: nn.Parameter
    bias: nn.Parameter | None
    output_like: torch.Tensor

    def store_as(self, scheme: Scheme, device: torch.device | str | None) -> None:
        """Give `weight` the dtype of `scheme`, uninitialised."""
        self.scheme = scheme
        dtype = float_format(scheme.weight).dtype
        self.weight = nn.Parameter(torch.empty(self.weight.shape, dtype=dtype, device=device), requires_grad=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        kept = id(self.weight)

        def keep_weight(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if id(tensor) == kept and moved.dtype != tensor.dtype else moved

        super()._apply(keep_weight, recurse)
        return self


class StoredLinear(StoredModule, nn.Linear):  # type: ignore[misc]
    """``nn.Linear`` that computes in the dtype of its stored weight and answers in that of its input."""

    float_class = nn.Linear

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``input @ weight.T + bias`` in the dtype of `input`."""
        return _linear(input, self.weight, self.bias)


class StoredConv1D(StoredModule, Conv1D):
    """``Conv1D`` that computes in the dtype of its stored weight; the weight stays ``[in, out]``."""

    float_class = Conv1D

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x @ weight + bias`` in the dtype of `x`."""
        return _linear(x, self.weight.t(), self.bias)


class StoredFilters(StoredModule, Filters):
    """`Filters` that convolve in the dtype of their stored weight and answer in that of their input."""

    float_class = Filters

    def forward(self, input: torch.Tensor, steps: Steps, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The convolution of a padded batch: ``[batch, in, *space] -> [batch, out, *outputs]``."""
        dtype = self.weight.dtype
        bias = None if bias is None else bias.to(dtype)
        return convolved(input.to(dtype), self.weight, steps, bias).to(input.dtype)


class StoredEmbedding(StoredModule, nn.Embedding):  # type: ignore[misc]
    """``nn.Embedding`` whose rows are cast to the model's dtype when looked up."""

    float_class = nn.Embedding

    def store_as(self, scheme: Scheme, device: torch.device | str | None) -> None:
        """Give `weight` the dtype of `scheme`, and remember the dtype to answer in."""
        self.register_buffer("output_like", torch.empty(0, device=device, dtype=self.weight.dtype), persistent=False)
        super().store_as(scheme, device)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Rows of the table: ``[...] -> [..., embedding_dim]``."""
        weight = self._parameters["weight"]
        stored = weight.stored if isinstance(weight, _Shown) else weight
        assert stored is not None
        return nn.functional.embedding(input, stored).to(self.output_like.dtype)

    def call_around(self, *args: Any, **kwargs: Any) -> Any:
        """What the forward of the derived class gives, which finds a weight of the model's dtype."""
        stored, dtype = self._parameters["weight"], self.output_like.dtype
        assert stored is not None
        if stored.dtype == dtype:
            return super().call_around(*args, **kwargs)
        shown: Any = stored.to(dtype) if torch.compiler.is_compiling() else _Shown(stored, dtype)
        self._parameters["weight"] = shown
        try:
            return super().call_around(*args, **kwargs)
        finally:
            self._parameters["weight"] = stored


class _Shown(torch.Tensor):
    """A stored weight as one of another dtype; it is cast whenever its numbers are read."""

    stored: torch.Tensor

    @staticmethod
    def __new__(cls, stored: torch.Tensor, dtype: torch.dtype) -> Any:
        make: Any = torch.Tensor._make_wrapper_subclass
        made = make(cls, stored.shape, dtype=dtype, device=stored.device)
        made.stored = stored
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        def plain(value: Any) -> Any:
            return value.stored.to(value.dtype) if isinstance(value, _Shown) else value

        return func(*tree_map(plain, args), **tree_map(plain, kwargs or {}))


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # As a matrix: of a batch whose strides are those of a slice, such as the last token of a prompt, torch would make a
    # batch of the weight as well, a copy of all of it.
    rows = input.reshape(-1, input.shape[-1]).to(weight.dtype)
    bias = None if bias is None else bias.to(weight.dtype)
    return nn.functional.linear(rows, weight, bias).to(input.dtype).view(*input.shape[:-1], len(weight))
