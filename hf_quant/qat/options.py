"""How quantization-aware training finds its grids."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hf_quant.errors import ConfigError, UnknownName
from hf_quant.registry import unknown

CHOICES = {"weights": ("lsq", "minmax"), "initial": ("mse", "minmax"), "inputs": ("lsq", "pact")}
"""Option to its valid values."""


@dataclass(frozen=True)
class QATOptions:
    """How grids are found in quantization-aware training, in every module.

    Args:
        weights: Grids of weights: ``"lsq"`` learns scales and offsets. ``"minmax"`` takes them anew from the extremes
            of the weight in each step, which ends as rounding to nearest does.
        initial: Where learned grids of weights start: ``"mse"``, the range of least squared error, or ``"minmax"``.
        inputs: Gradients of grids of static inputs: ``"lsq"``, or ``"pact"``, which learns from clipped inputs only.

    Raises:
        UnknownName: A value is not one of these.
        ConfigError: A value is not a string.
    """

    weights: str = "lsq"
    initial: str = "mse"
    inputs: str = "lsq"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, known = getattr(self, field.name), CHOICES[field.name]
            if not isinstance(value, str):
                raise ConfigError(f"{field.name} takes one of {known}, not {value!r}")
            if value not in known:
                raise UnknownName(unknown(f"value of {field.name}", value, known))
