"""`HfQuantConfig`: what a user passes to ``from_pretrained``, and what ``config.json`` keeps."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_quant.calibration.data import Calibration
from hf_quant.config.overrides import Override, checked_overrides, resolved_overrides, written_overrides
from hf_quant.config.plan import FORMAT_VERSION, Candidate, Plan, check_format_version, preset_plan
from hf_quant.config.presets import PRESETS, get_preset, rotated
from hf_quant.config.recipe import Recipe
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.registry import unknown

QUANT_METHOD = "hf_quant"

_KEYS = (
    "preset",
    "scheme",
    "plan",
    "overrides",
    "rotation",
    "recipe",
    "calibration",
    "modules_to_not_convert",
    "kept_float",
    "calibration_fingerprint",
    "qat",
    "format_version",
)


class HfQuantConfig(QuantizationConfigMixin):
    """How to quantize a model: one of a preset, a scheme or a plan, with exceptions.

    ```python
    HfQuantConfig("int4")
    HfQuantConfig("int4", overrides={"*.down_proj": "int8", "re:model\\\\.layers\\\\.0\\\\..*": None})
    HfQuantConfig(scheme=Scheme(weight=TensorScheme(bits=3, symmetric=False, granularity="group", group_size=64)))
    HfQuantConfig(plan=Plan({"*.mlp.*": scheme}))
    ```

    Args:
        preset: ``fp32 fp16 bf16 int16 int8 int8-static w8a16 int4 w4a16``: linears as the name says; embeddings and
            heads INT8 per row for integer presets of at most 8 bits.
        scheme: A scheme for every linear; embeddings and heads are INT8 per row, the head with the scheme's input.
        plan: Patterns to schemes. Modules that no pattern matches stay float.
        overrides: Patterns to a preset's name, a scheme or None (keep float), on top of `preset` or `scheme`.
            An exact name wins over patterns; among patterns the last that matches wins.
        rotation: Block size of a Hadamard rotation of every integer weight whose width it divides, and of the inputs to
            match (`TensorScheme.rotation`), instead of what the preset says: 64 for weights of 8 bits. 0 turns it off.
        recipe: Algorithms for the weights and static inputs (`Recipe`); without one, weights are rounded to nearest.
            What else it says counts as if it were said here. `from_recipe` takes one from a file.
        calibration: Data for what needs any. It is not written to ``config.json``; its fingerprint is.
        modules_to_not_convert: Names, prefixes or name parts of modules to keep float, as in every Transformers
            quantizer. A module tied to one of them stays float with it.
        kept_float: Module name to the reason why it stayed float; written when a model is quantized.
        calibration_fingerprint: Of the data that a model was quantized with; written likewise.
        qat: Give a model that trains with quantization in the loop, in place of a quantized one. A checkpoint that is
            quantized already goes on from its codes and grids; nothing else need be said of it. `hf_quant.convert` then
            makes it a quantized model.
        format_version: Of the checkpoint; written when a model is saved.
        quant_method: Accepted because ``config.json`` holds it.

    Raises:
        ConfigError: Unknown names or keys, values of the wrong type, more than one of preset, scheme and plan, or
            something else here than in the recipe.
    """

    def __init__(
        self,
        preset: str | None = None,
        *,
        scheme: Scheme | Mapping[str, Any] | None = None,
        plan: Plan | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Override] | None = None,
        rotation: int | None = None,
        recipe: Recipe | Mapping[str, Any] | None = None,
        calibration: Calibration | None = None,
        modules_to_not_convert: Sequence[str] | None = None,
        kept_float: Mapping[str, str] | None = None,
        calibration_fingerprint: str | None = None,
        qat: bool = False,
        format_version: int = FORMAT_VERSION,
        quant_method: str = QUANT_METHOD,
        **unknown_keys: Any,
    ):
        check_format_version(format_version)
        if quant_method != QUANT_METHOD:
            raise ConfigError(f"HfQuantConfig reads quant_method {QUANT_METHOD!r}, not {quant_method!r}")
        for key in unknown_keys:
            raise ConfigError(unknown("HfQuantConfig key", key, _KEYS))
        if preset is not None:
            if not isinstance(preset, str):
                raise ConfigError(f"preset is a name ({', '.join(PRESETS)}), not {preset!r}")
            get_preset(preset)
        self.recipe = Recipe.from_dict(recipe) if isinstance(recipe, Mapping) else recipe
        self.calibration = calibration
        self.calibration_fingerprint = calibration_fingerprint
        if not isinstance(self.recipe, Recipe | None) or not isinstance(calibration, Calibration | None):
            raise ConfigError("recipe takes a Recipe or what its to_dict() writes, and calibration a Calibration")
        if not isinstance(qat, bool):
            raise ConfigError(f"qat is True or False, not {qat!r}")
        self.qat = qat
        self.quant_method = QUANT_METHOD
        self.format_version = format_version
        self.preset = preset
        self.scheme = Scheme.from_dict(scheme) if isinstance(scheme, Mapping) else scheme
        self.plan = Plan.from_dict(plan) if isinstance(plan, Mapping) else plan
        self.overrides = checked_overrides(overrides)
        self.modules_to_not_convert = _names(modules_to_not_convert)
        self.rotation = rotation
        if self.recipe is not None and kept_float is None:
            self._adopt(self.recipe)
        if not isinstance(kept_float, Mapping | None):
            raise ConfigError(f"kept_float takes a dict, not {kept_float!r}")
        self.kept_float = {str(name): str(reason) for name, reason in (kept_float or {}).items()}
        if not isinstance(self.scheme, Scheme | None) or not isinstance(self.plan, Plan | None):
            raise ConfigError("scheme takes a Scheme and plan a Plan, or the dicts that their to_dict() writes")
        given = [name for name in ("preset", "scheme", "plan") if getattr(self, name) is not None]
        is_written = given == ["preset", "plan"] and kept_float is not None
        says_more = self.overrides or self.recipe or self.modules_to_not_convert or rotation is not None
        goes_on = self.qat and not given and not says_more
        if len(given) != 1 and not is_written and not goes_on:
            raise ConfigError(
                f"give exactly one of preset, scheme and plan; got {', '.join(given) or 'none'}. "
                f"Presets: {', '.join(PRESETS)}"
            )
        if self.rotation is not None and (isinstance(self.rotation, bool) or self.rotation != 0):
            TensorScheme(rotation=self.rotation)  # checks the value
        if self.plan is not None and (self.overrides or self.rotation is not None):
            raise ConfigError(
                "overrides and rotation apply to a preset or a scheme; write the exceptions into the plan itself"
            )

    @classmethod
    def from_recipe(
        cls, recipe: Recipe | Mapping[str, Any] | str | Path, calibration: Calibration | None = None
    ) -> HfQuantConfig:
        """The config of a recipe, of a YAML file, or of one that comes with the package by its name, with its data.

        Raises:
            ConfigError: The file cannot be read, or is no recipe.
        """
        return cls(
            recipe=Recipe.from_file(recipe) if isinstance(recipe, str | Path) else recipe, calibration=calibration
        )

    def _adopt(self, recipe: Recipe) -> None:
        # Said once, here or there, or twice alike: whatever lost would be ignored in silence.
        said = {
            "preset": recipe.preset,
            "scheme": recipe.scheme,
            "overrides": checked_overrides(recipe.overrides),
            "rotation": recipe.rotation,
            "modules_to_not_convert": list(recipe.modules_to_not_convert),
        }
        for key, value in said.items():
            own = getattr(self, key)
            if value in (None, {}, []):
                continue
            if own not in (None, {}, []) and own != value:
                raise ConfigError(f"the recipe says {key} {value!r}, the config {own!r}: leave one of them out")
            setattr(self, key, value)

    def requested_plan(self, candidates: Mapping[str, Candidate]) -> Plan:
        """The plan for a model with these modules, before ties and skips are looked at.

        Raises:
            ConfigError: ``qat=True`` was all that was said.
            PlanError: A pattern matches nothing, or a group size does not divide a width.
        """
        if self.plan is not None:
            return self.plan.resolve(candidates)
        if self.preset is not None:
            base = preset_plan(self.preset, candidates)
        elif self.scheme is None:
            raise ConfigError(
                "qat=True alone is for checkpoints that are quantized, and this model is float: say to what as well, "
                'such as HfQuantConfig("int4", qat=True)'
            )
        else:
            base = Plan({name: self._scheme_for(entry) for name, entry in candidates.items()}).resolve(candidates)
        modules = {**base.modules, **resolved_overrides(self.overrides, candidates)} if self.overrides else base.modules
        if self.rotation is None:
            return Plan(modules)
        return Plan(
            {
                name: None if scheme is None else rotated(scheme, self.rotation, candidates[name].width)
                for name, scheme in modules.items()
            }
        )

    def _scheme_for(self, candidate: Candidate) -> Scheme:
        # Embeddings and heads as in the preset that quantizes inputs like the scheme of the linears does.
        assert self.scheme is not None
        if candidate.kind == "linear":
            return self.scheme
        input = self.scheme.input
        if input is None or input.granularity == "group":
            return PRESETS["w8a16" if input is None else "int8"].scheme_for(candidate.kind, candidate.width)
        return replace(PRESETS["int8"].scheme_for(candidate.kind, candidate.width), input=input)

    def resolved(
        self, plan: Plan, kept_float: Mapping[str, str], calibration_fingerprint: str | None = None
    ) -> HfQuantConfig:
        """A config of the plan that a model was really quantized with; preset and recipe are kept for people."""
        return HfQuantConfig(
            self.preset,
            plan=plan,
            kept_float=dict(kept_float),
            recipe=self.recipe,
            calibration_fingerprint=calibration_fingerprint or self.calibration_fingerprint,
        )

    def get_loading_attributes(self) -> dict[str, Any]:
        """What counts of a config that is given beside the one in a quantized checkpoint."""
        return {"qat": True} if self.qat else {}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``HfQuantConfig(**config.to_dict())`` is equal."""
        values: dict[str, Any] = {"quant_method": self.quant_method, "format_version": self.format_version}
        if self.preset is not None:
            values["preset"] = self.preset
        if self.scheme is not None:
            values["scheme"] = self.scheme.to_dict()
        if self.plan is not None:
            values["plan"] = self.plan.to_dict()
            values["kept_float"] = dict(self.kept_float)
        if self.rotation is not None:
            values["rotation"] = self.rotation
        if self.recipe is not None:
            values["recipe"] = self.recipe.to_dict()
        if self.calibration_fingerprint is not None:
            values["calibration_fingerprint"] = self.calibration_fingerprint
        if self.overrides:
            values["overrides"] = written_overrides(self.overrides)
        if self.qat:
            values["qat"] = True
        if self.modules_to_not_convert:
            values["modules_to_not_convert"] = list(self.modules_to_not_convert)
        return copy.deepcopy(values)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Items of `to_dict`, so that ``dict(config)`` is JSON-ready."""
        return iter(self.to_dict().items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HfQuantConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def _names(value: Sequence[str] | None) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"modules_to_not_convert takes a list of module names, not {value!r}")
    for name in value:
        try:
            re.compile(name)
        except re.error as error:
            # Transformers matches them so; its own error would come in the middle of loading.
            raise ConfigError(
                f"modules_to_not_convert takes names and regular expressions, and {name!r} is neither: {error}; "
                f'for every module with that in its name write ".*{re.escape(name.strip("*"))}.*"'
            ) from error
    return list(value)
