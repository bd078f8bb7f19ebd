"""An embedding table on integer codes."""

from __future__ import annotations

import torch
from torch import nn

from hf_quant.config.scheme import Scheme
from hf_quant.kernels import ops
from hf_quant.modules.base import QuantizedModule


class Table(QuantizedModule):
    """Mixin of quantized modules of whose weight rows are read."""

    multiplies = False

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """Decoded rows: ``[...] -> [..., width]``, in the dtype of the float module."""
        if torch.compiler.is_compiling():
            if not self.ready:
                self.prepare()
        elif self.held is not self._parameters["weight"]:
            if (visiting := self._visiting()) is not None:
                return self._of(visiting, indices)
            self.prepare()
        if self.look_up is not None:
            return self.look_up(indices, self.packed, self.spec, self.like)
        return ops.embedding(indices, self.operands().weight, self.spec, self.float_dtype)

    def _of(self, weight: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Rows of a parameter that has taken the place of the own one for this call: codes from disk, or floats."""
        if weight.is_floating_point():
            return nn.functional.embedding(indices, weight)
        return ops.embedding(indices, self._visiting_operands().weight, self.spec, self.float_dtype)


class QuantizedEmbedding(Table, nn.Embedding):  # type: ignore[misc]
    """``nn.Embedding`` with a quantized table; only the rows looked up are decoded.

    Args:
        num_embeddings: Rows.
        embedding_dim: Width of a row.
        padding_idx: Row that gets no gradient, as ``nn.Embedding`` takes it; or None.
        scheme: Format of the table; its input format must be None.
        tied: The table belongs to another module.
        device: Where the tensors are made.
        dtype: Dtype of the output; follows casts of the model.
    """

    float_class = nn.Embedding

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        scheme: Scheme,
        tied: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        nn.Module.__init__(self)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse = None, 2.0, False, False
        self.setup(scheme, embedding_dim, num_embeddings, tied, device, dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Rows of the table: ``[...] -> [..., embedding_dim]``."""
        return self.rows(input)

    def extra_repr(self) -> str:
        """Shapes and scheme."""
        return f"{self.num_embeddings}, {self.embedding_dim}, scheme={self.spec.scheme}"
