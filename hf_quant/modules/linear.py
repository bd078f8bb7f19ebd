"""A linear layer on integer codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hf_quant.config.scheme import Scheme
from hf_quant.kernels import ops
from hf_quant.kernels.base import LinearOperands
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.products import multiplied_by_floats


class QuantizedLinear(QuantizedModule, nn.Linear):  # type: ignore[misc]
    """``nn.Linear`` with a quantized weight, ``[..., in_features] -> [..., out_features]``.

    It is a subclass of ``nn.Linear`` so that libraries which look for linears (PEFT among them) find it.

    Args:
        in_features: Input width.
        out_features: Output width.
        bias: Whether there is a bias; it stays float.
        scheme: Formats of weight and input.
        tied: The weight belongs to an embedding.
        device: Where the tensors are made.
        dtype: Dtype of the bias.
    """

    multiplies = True
    float_class = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        scheme: Scheme,
        tied: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.siblings: Callable[[QuantizedLinear, torch.Tensor], torch.Tensor | None] | None = None
        self.setup(scheme, in_features, out_features, tied, device, dtype)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype), requires_grad=False)
        else:
            self.register_parameter("bias", None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``input @ weight.T + bias`` in the dtype of `input`."""
        if torch.compiler.is_compiling():
            if not self.ready:
                self.prepare()
        elif self.held is not self._parameters["weight"]:
            if (visiting := self._visiting()) is not None:
                return self._on(visiting, input)
            self.prepare()
        fast, bias = self.fast, self._parameters["bias"]
        trains = torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad))
        if fast is not None and not trains:
            siblings = self.siblings  # another thread may separate them
            if siblings is not None and (output := siblings(self, input)) is not None:
                return output
            return fast(input, self.packed, bias, self.spec)
        if torch.compiler.is_compiling() or trains:
            buffers = self._buffers
            grid = buffers["input_scale"], buffers["input_zero_point"]
            # What was looked up before, since a graph has a guard for whatever it looks up.
            return ops.linear_op(input, self.read, bias, *grid, self.packed, self.spec, str(self.kernel))
        return ops.linear(input, self.operands(), self.spec, str(self.kernel))

    def _on(self, weight: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
        """On a parameter that has taken the place of the own one for this call: codes from disk, or floats."""
        if weight.is_floating_point():
            grid = LinearOperands({}, self.bias, self.input_scale, self.input_zero_point)
            return multiplied_by_floats(weight, input, grid, self.spec)
        return ops.linear(input, self._visiting_operands(), self.spec, self._neutral_kernel(weight.device))

    def extra_repr(self) -> str:
        """Shapes, scheme and kernel."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, scheme={self.spec.scheme}, kernel={self.kernel}"
        )
