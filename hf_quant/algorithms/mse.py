"""Round to nearest on ranges that are clipped to the least squared error of the weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_quant.algorithms.base import MEANS, InputStatistics, QuantizedWeight
from hf_quant.algorithms.grids import Clipping
from hf_quant.algorithms.hessian import hessian_of
from hf_quant.algorithms.rtn import check_shape, rounded
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ConfigError

_DEFAULT = Clipping()


@dataclass(frozen=True)
class ClippedToNearest:
    """Scales with the least squared error among shrunken ranges of each channel or group, codes by rounding.

    Args:
        importance: Whether to weigh the error of each weight by the mean square of its input, which takes calibration.
            Otherwise all weights count alike.
        trials: Number of ranges that are tried; see `grids.Clipping`.
        narrowest: Share of the range that the last trial keeps; see `grids.Clipping`.

    Raises:
        ConfigError: An option is out of range.
    """

    importance: bool = False
    trials: int = _DEFAULT.trials
    narrowest: float = _DEFAULT.narrowest

    def __post_init__(self) -> None:
        if not isinstance(self.importance, bool):
            raise ConfigError(f"importance must be true or false, not {self.importance!r}")
        Clipping(self.trials, self.narrowest)

    @property
    def needs(self) -> frozenset[str]:
        """Needed input statistics: the Hessian, for the mean squares on its diagonal, where `importance` is on."""
        return frozenset({"hessian"} if self.importance else ())

    def least_tokens(self, width: int) -> int:
        """Enough for mean squares, where `importance` is on."""
        return MEANS if self.importance else 0

    def solve(
        self, weight: torch.Tensor, scheme: TensorScheme, name: str, inputs: InputStatistics | None = None
    ) -> QuantizedWeight:
        """Quantize ``[rows, width]`` floats of any float dtype; `name` is for error messages.

        Raises:
            ConfigError: `importance` is on, and there is no Hessian.
            WeightError: The weight or the Hessian holds NaN or Inf, or has a shape that cannot be quantized.
        """
        check_shape(weight, name)
        clipping = Clipping(self.trials, self.narrowest)
        if not self.importance:
            return rounded(weight, scheme, name, clipping)
        hessian = hessian_of(inputs, weight.shape[1], scheme, name, weight.device)
        # Rotation may round the mean square of an input that is always zero to a little less.
        return rounded(weight, scheme, name, clipping, hessian.diagonal().clamp(min=0))
