"""What a layer's bias makes up for: the mean error of its outputs (Nagel et al., arXiv:1906.04721, section 4.2)."""

from __future__ import annotations

import torch

from hf_quant.errors import WeightError


def bias_correction(
    weight: torch.Tensor, quantized: torch.Tensor, mean: torch.Tensor, inputs_first: bool = False
) -> torch.Tensor:
    """Bias correction ``E[x] (W - Wq)^T``: added to the bias, it gives outputs the mean they had before.

    Args:
        weight: Float weight before quantization, ``[out, in]`` as a linear has it.
        quantized: Decoded quantized weight, turned back where it is rotated; of the shape of `weight`.
        mean: Mean of each input, ``[in]``.
        inputs_first: Whether both weights are ``[in, out]``, as a ``Conv1D`` has them.

    Returns:
        float32 ``[out]``, summed in float64.

    Raises:
        WeightError: The shapes do not go together.
    """
    if (
        weight.shape != quantized.shape
        or weight.ndim != 2
        or mean.shape != weight.shape[: 1 if inputs_first else 2][-1:]
    ):
        raise WeightError(
            f"weights {tuple(weight.shape)} and {tuple(quantized.shape)} and means {tuple(mean.shape)} do not go "
            f"together: weights are both [{'in, out' if inputs_first else 'out, in'}], means [in]"
        )
    error = weight.detach().double() - quantized.detach().double()
    return (mean.detach().double() @ (error if inputs_first else error.t())).to(torch.float32)
