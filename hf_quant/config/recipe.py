"""Recipes: what to quantize to, and by which algorithms, as a few lines of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_quant.config.request import Request
from hf_quant.errors import ConfigError
from hf_quant.registry import unknown

Step = tuple[str, dict[str, Any]]
"""Name of an algorithm, and its options."""

CALIBRATION_KEYS = ("samples", "sequence_length", "seed", "batch_size", "packing")


@dataclass(frozen=True)
class Recipe(Request):
    """How a model is quantized with the help of data: what to, and by which algorithms.

    What to is a `Request`: preset, scheme or plan, overrides, rotation, modules_to_not_convert. It may leave preset,
    scheme and plan to ``HfQuantConfig``.

    Steps are written as a name, or as a name with options: ``"gptq"``, ``{"gptq": {"damping": 0.05}}``.

    Args:
        transforms: Algorithms that change the float weights first, in order.
        solver: Algorithm that turns weights into codes.
        observer: Algorithm that chooses the range of static inputs.
        bias_correction: Whether biases make up for the mean error of their layer (arXiv:1906.04721, section 4.2).
        calibration: Arguments of ``Calibration`` that go with the recipe.

    Raises:
        ConfigError: Unknown keys (the nearest valid one is named), or values of the wrong type.
    """

    transforms: tuple[Step, ...] = ()
    solver: Step = ("rtn", {})
    observer: Step = ("percentile", {})
    bias_correction: bool = False
    calibration: Mapping[str, Any] = field(default_factory=dict)

    kind = "recipe"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.calibration, Mapping | None):
            raise ConfigError(f"calibration of a recipe is written as keys and values, not as {self.calibration!r}")
        object.__setattr__(self, "calibration", dict(self.calibration or {}))
        if not isinstance(self.transforms, list | tuple | None):
            raise ConfigError(f"transforms of a recipe is a list, not {self.transforms!r}")
        object.__setattr__(self, "transforms", tuple(_step(entry, "transforms") for entry in self.transforms or ()))
        for key in ("solver", "observer"):
            object.__setattr__(self, key, _step(getattr(self, key), key))
        for key in self.calibration:
            if key not in CALIBRATION_KEYS:
                raise ConfigError(unknown("calibration key", key, CALIBRATION_KEYS))
        if not isinstance(self.bias_correction, bool):
            raise ConfigError(f"bias_correction is true or false, not {self.bias_correction!r}")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values, without defaults; inverse of `from_dict`."""
        values = super().to_dict()
        if self.transforms:
            values["transforms"] = [{name: dict(options)} for name, options in self.transforms]
        for key, (name, options), default in (
            ("solver", self.solver, "rtn"),
            ("observer", self.observer, "percentile"),
        ):
            if (name, options) != (default, {}):
                values[key] = {name: dict(options)}
        if self.bias_correction:
            values["bias_correction"] = True
        if self.calibration:
            values["calibration"] = dict(self.calibration)
        return values

    def steps(self) -> str:
        """Transforms and solver in words: ``awq, then gptq``."""
        return ", then ".join([*(name for name, _ in self.transforms), self.solver[0]])


def _step(entry: Any, key: str) -> Step:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, tuple) and len(entry) == 2:
        entry = {entry[0]: entry[1]}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, options),) = entry.items()
        if isinstance(name, str) and isinstance(options or {}, Mapping):
            return name, dict(options or {})
    raise ConfigError(f"{key} of a recipe takes a name, or a name with options such as gptq: {{damping: 0.01}}")
