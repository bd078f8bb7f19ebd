"""Recipes: what to quantize to, and by which algorithms, as a few lines of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from hf_quant.config.presets import get_preset
from hf_quant.config.recipe_files import recipe_file
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError
from hf_quant.registry import unknown

Step = tuple[str, dict[str, Any]]
"""Name of an algorithm, and its options."""

CALIBRATION_KEYS = ("samples", "sequence_length", "seed", "batch_size", "packing")


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized with the help of data.

    Steps are written as a name, or as a name with options: ``"gptq"``, ``{"gptq": {"damping": 0.05}}``.

    Args:
        preset: Name of the preset; or give `scheme`, or neither, where ``HfQuantConfig`` has one of them or a plan.
        scheme: For every linear.
        overrides: Patterns to a preset's name, a scheme or None, as in ``HfQuantConfig``.
        rotation: As in ``HfQuantConfig``.
        modules_to_not_convert: As in ``HfQuantConfig``.
        transforms: What is done to the float weights first, in order.
        solver: What turns weights into codes.
        observer: What chooses the range of static inputs.
        bias_correction: Whether biases make up for the mean error of their layer (arXiv:1906.04721, section 4.2).
        calibration: Arguments of ``Calibration`` that go with the recipe.

    Raises:
        ConfigError: Unknown keys (the nearest valid one is named), or values of the wrong type.
    """

    preset: str | None = None
    scheme: Scheme | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    rotation: int | None = None
    modules_to_not_convert: tuple[str, ...] = ()
    transforms: tuple[Step, ...] = ()
    solver: Step = ("rtn", {})
    observer: Step = ("percentile", {})
    bias_correction: bool = False
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.preset is not None and self.scheme is not None:
            raise ConfigError("a recipe names a preset or a scheme, not both")
        if self.preset is not None:
            get_preset(self.preset)
        if isinstance(self.scheme, Mapping):
            object.__setattr__(self, "scheme", Scheme.from_dict(self.scheme))
        if not isinstance(self.scheme, Scheme | None):
            raise ConfigError(f"scheme of a recipe takes a Scheme, or what its to_dict() writes, not {self.scheme!r}")
        for key in ("overrides", "calibration"):
            object.__setattr__(self, key, _mapping(getattr(self, key), key))
        for key in ("transforms", "modules_to_not_convert"):
            if not isinstance(getattr(self, key), list | tuple | None):
                raise ConfigError(f"{key} of a recipe is a list, not {getattr(self, key)!r}")
        object.__setattr__(
            self, "modules_to_not_convert", tuple(str(name) for name in self.modules_to_not_convert or ())
        )
        object.__setattr__(self, "transforms", tuple(_step(entry, "transforms") for entry in self.transforms or ()))
        for key in ("solver", "observer"):
            object.__setattr__(self, key, _step(getattr(self, key), key))
        for key in self.calibration:
            if key not in CALIBRATION_KEYS:
                raise ConfigError(unknown("calibration key", key, CALIBRATION_KEYS))
        if not isinstance(self.bias_correction, bool):
            raise ConfigError(f"bias_correction is true or false, not {self.bias_correction!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without defaults; inverse of `from_dict`."""
        values: dict[str, Any] = {}
        if self.preset is not None:
            values["preset"] = self.preset
        if self.scheme is not None:
            values["scheme"] = self.scheme.to_dict()
        if self.overrides:
            values["overrides"] = {
                name: value.to_dict() if isinstance(value, Scheme) else value for name, value in self.overrides.items()
            }
        if self.rotation is not None:
            values["rotation"] = self.rotation
        if self.modules_to_not_convert:
            values["modules_to_not_convert"] = list(self.modules_to_not_convert)
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Inverse of `to_dict`; rejects unknown keys."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"a recipe is written as keys and values, not as {values!r}")
        known = [entry.name for entry in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(unknown("recipe key", key, known))
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """A recipe from a YAML file, or one that comes with the package by its name (`recipe_files.recipe_names`).

        Raises:
            ConfigError: The file cannot be read, is no YAML, or no recipe; the message names the file.
        """
        path = recipe_file(path)
        try:
            values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read as a recipe: {error}") from error
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping | None):
        raise ConfigError(f"{key} of a recipe is written as keys and values, not as {value!r}")
    return dict(value or {})


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
