"""GPT-2's ``Conv1D``: a linear layer whose float weight lies transposed."""

from __future__ import annotations

from transformers.pytorch_utils import Conv1D

from hf_quant.modules.linear import QuantizedLinear


class QuantizedConv1D(QuantizedLinear):
    """A linear that came from a ``Conv1D``; codes and checkpoint are ``[out, in]``, as for any linear.

    Its own type records that dequantizing gives back a ``Conv1D``, with the weight ``[in, out]``.
    """

    float_class = Conv1D

    @property
    def nf(self) -> int:
        """Output width, by the name that ``Conv1D`` gives it."""
        return self.out_features

    @property
    def nx(self) -> int:
        """Input width, by the name that ``Conv1D`` gives it."""
        return self.in_features
