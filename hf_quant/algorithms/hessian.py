"""Second moments of inputs, as solvers take them."""

from __future__ import annotations

import torch

from hf_quant.algorithms.base import InputStatistics
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ConfigError, WeightError
from hf_quant.formats.rotation import rotate


def hessian_of(
    inputs: InputStatistics | None, width: int, scheme: TensorScheme, name: str, device: torch.device
) -> torch.Tensor:
    """Hessian of a weight's inputs, the mean of ``x x^T``, rotated as its rows are: float32 ``[width, width]``.

    Raises:
        ConfigError: There are no statistics, or they lack the Hessian.
        WeightError: The Hessian holds NaN or Inf, or is of inputs of another width.
    """
    if inputs is None or inputs.hessian is None:
        raise ConfigError(
            f'{name} cannot be quantized without statistics of its inputs, "hessian" among them: '
            'give calibration data, or use a solver that needs none, such as "rtn"'
        )
    hessian = inputs.hessian.detach().to(device, torch.float32)
    if hessian.shape != (width, width):
        raise WeightError(
            f"{name} has {width} inputs, but their Hessian has shape {tuple(hessian.shape)}: calibrate the model itself"
        )
    if not bool(torch.isfinite(hessian).all()):
        raise WeightError(
            f"the Hessian of the inputs of {name} holds NaN or Inf: calibrate with the model in float32 or on other "
            "data, or keep the module float with modules_to_not_convert"
        )
    if scheme.rotation is None:
        return hessian
    return rotate(rotate(hessian, scheme.rotation).t(), scheme.rotation).t()
