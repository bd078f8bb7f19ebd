"""Small steps whose gradient is that of the identity, and the rotation, whose gradient is a rotation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_quant.formats.scales import as_stored
from hf_quant.qat.rotation import rotate_rows


class ZeroPoint(torch.autograd.Function):
    """``clamp(round(-offset / scale), low, high)``; the gradient passes the rounding, and the clamp unless it clamps.

    Scales may be as small as float32 has them, as those of rows of zeros are: nothing is divided by their square.
    """

    @staticmethod
    def forward(ctx: Any, offset: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        """Zero points: whole numbers of the shape of `offset` and in its dtype."""
        point = -offset / scale
        ctx.save_for_backward(point, scale)
        ctx.limits = (low, high)
        return point.round().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of offset and scale."""
        point, scale = ctx.saved_tensors
        low, high = ctx.limits
        ratio = gradients[0] / scale
        ratio = torch.where((point >= low - 0.5) & (point <= high + 0.5), ratio, 0.0)
        return -ratio, -ratio * point, None, None


class Idle(torch.autograd.Function):
    """A tensor as it is, and parameters that it does not depend on, whose gradient is zero.

    ``DistributedDataParallel`` waits in every step for the gradients of all parameters that it was made with.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, *parameters: Tensor) -> Tensor:
        """A view of the output, whose graph holds the parameters."""
        ctx.save_for_backward(*parameters)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """The gradient of `output`, and zeros."""
        return gradients[0], *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


class StoreAs(torch.autograd.Function):
    """A float32 number as `dtype` holds it, in float32; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, dtype: torch.dtype) -> Tensor:
        """The numbers rounded to `dtype`, in float32."""
        return as_stored(real, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The incoming gradient, unchanged."""
        return gradients[0], None


class Rotate(torch.autograd.Function):
    """Hadamard rotation (`formats.rotation.rotate`) with a gradient, which the symmetric matrix rotates alike."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, size: int) -> Tensor:
        """Rotate ``[..., n]`` in blocks of `size` numbers; float32."""
        ctx.size, ctx.dtype = size, real.dtype
        return rotate_rows(real, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The rotated gradient, in the dtype of what was rotated."""
        # As a product, which is faster than the butterfly; a gradient need not round as kernels do.
        matrix = rotate_rows(torch.eye(ctx.size, device=gradients[0].device), ctx.size)
        blocks = gradients[0].unflatten(-1, (-1, ctx.size)) @ matrix.to(gradients[0].dtype)
        return blocks.flatten(-2).to(ctx.dtype), None
