"""What to quantize a model to, as users ask for it: in configs, recipes, training recipes and on the command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from hf_quant.config.overrides import checked_overrides, resolved_overrides, written_overrides
from hf_quant.config.plan import Candidate, Plan, preset_plan
from hf_quant.config.presets import PRESETS, get_preset, rotated
from hf_quant.config.recipe_files import recipe_file
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.registry import unknown

_Asked = TypeVar("_Asked", bound="Request")


@dataclass(frozen=True)
class Request:
    """What to quantize a model to: a preset, scheme or plan, with exceptions; or none yet, where another says it.

    Args:
        preset: Name of a preset.
        scheme: Scheme of every linear.
        plan: Plan, patterns to schemes. Modules that no pattern matches stay float.
        overrides: Exceptions from `preset` or `scheme`: patterns to a preset's name, a scheme or None (keep float).
        rotation: Block size of Hadamard rotations in place of the preset's or scheme's; 0 turns them off.
        modules_to_not_convert: Names, starts or ends of names of modules to keep float, with all that is in them; also
            with ranges of numbers (``layers.{0-3,7}``).

    Raises:
        ConfigError: More than one of preset, scheme and plan, a plan with exceptions, or values of the wrong type.
        UnknownName: There is no such preset; the nearest is named.
    """

    preset: str | None = None
    scheme: Scheme | None = None
    plan: Plan | None = None
    overrides: Mapping[str, Scheme | str | None] = field(default_factory=dict)
    rotation: int | None = None
    modules_to_not_convert: tuple[str, ...] = ()

    kind: ClassVar[str] = "request"
    """Name of this kind of request, for messages."""
    trains: ClassVar[bool] = False
    """Whether recipe files of this kind are those of training."""

    def __post_init__(self) -> None:
        if not isinstance(self.preset, str | None):
            raise ConfigError(f"preset is a name ({', '.join(PRESETS)}), not {self.preset!r}")
        if self.preset is not None:
            get_preset(self.preset)
        for key, written in (("scheme", Scheme), ("plan", Plan)):
            value = getattr(self, key)
            value = written.from_dict(value) if isinstance(value, Mapping) else value
            if not isinstance(value, written | None):
                raise ConfigError(f"{key} takes a {written.__name__}, or what its to_dict() writes, not {value!r}")
            object.__setattr__(self, key, value)
        object.__setattr__(self, "overrides", checked_overrides(self.overrides))
        object.__setattr__(self, "modules_to_not_convert", _names(self.modules_to_not_convert))
        if self.rotation is not None and (isinstance(self.rotation, bool) or self.rotation != 0):
            TensorScheme(rotation=self.rotation)  # checks the value
        if len(self.targets()) > 1:
            raise ConfigError(_ONE.format(", ".join(self.targets())))
        if self.plan is not None and (self.overrides or self.rotation is not None):
            raise ConfigError(
                "overrides and rotation apply to a preset or a scheme; write the exceptions into the plan itself"
            )

    def targets(self) -> list[str]:
        """Names of those among preset, scheme and plan that are given."""
        return [name for name in ("preset", "scheme", "plan") if getattr(self, name) is not None]

    def require_target(self) -> None:
        """Raise ConfigError if it has neither preset nor scheme nor plan."""
        if not self.targets():
            raise ConfigError(_ONE.format("none") + "; in a recipe's file, a line such as `preset: int8`")

    def asked(self) -> dict[str, Any]:
        """Fields of a `Request` that are given, by name; what is left open is absent."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(Request)}
        return {name: value for name, value in values.items() if value not in (None, {}, ())}

    def joined(self, recipe: Request) -> Request:
        """One request of what a config and its recipe say together.

        Raises:
            ConfigError: The two say different things, or more than one of preset, scheme and plan.
        """
        own, others = self.asked(), recipe.asked()
        for name in own:
            # Whatever lost would be ignored in silence.
            if name in others and own[name] != others[name]:
                raise ConfigError(
                    f"the recipe says {name} {others[name]!r}, the config {own[name]!r}: leave one of them out"
                )
        return Request(**{**own, **others})

    def requested_plan(self, candidates: Mapping[str, Candidate]) -> Plan:
        """The plan for a model with these modules, before ties and modules to leave out are looked at.

        Args:
            candidates: Every module that can be quantized, by name.

        Raises:
            ConfigError: Neither preset nor scheme nor plan is given.
            PlanError: A pattern matches nothing, or a group size does not divide a width.
        """
        self.require_target()
        if self.plan is not None:
            return self.plan.resolve(candidates)
        if self.preset is not None:
            base = preset_plan(self.preset, candidates)
        else:
            base = Plan({name: self._scheme_for(entry) for name, entry in candidates.items()}).resolve(candidates)
        modules = {**base.modules, **resolved_overrides(self.overrides, candidates)} if self.overrides else base.modules
        if self.rotation is None:
            return Plan(modules)
        return Plan(
            {
                name: scheme
                if scheme is None or candidates[name].kind == "filters"
                else rotated(scheme, self.rotation, candidates[name].width)
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

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON-ready values, without what is left open; inverse of `from_dict`."""
        values = self.asked()
        for key in values.keys() & {"scheme", "plan"}:
            values[key] = values[key].to_dict()
        if "overrides" in values:
            values["overrides"] = written_overrides(values["overrides"])
        if "modules_to_not_convert" in values:
            values["modules_to_not_convert"] = list(values["modules_to_not_convert"])
        return values

    @classmethod
    def from_dict(cls: type[_Asked], values: Mapping[str, Any]) -> _Asked:
        """Read a request that `to_dict` wrote; rejects unknown keys, and names the nearest valid one."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"a {cls.kind} is written as keys and values, not as {values!r}")
        known = [entry.name for entry in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(unknown(f"{cls.kind} key", key, known))
        return cls(**values)

    @classmethod
    def from_file(cls: type[_Asked], path: str | Path) -> _Asked:
        """Read a YAML file, or one that comes with the package by its name (`recipe_files.recipe_names`).

        Raises:
            ConfigError: The file cannot be read, is no YAML, or no recipe; the message names the file.
        """
        path = recipe_file(path, cls.trains)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read as a {cls.kind}: {error}") from error
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


_ONE = f"give exactly one of preset, scheme and plan; got {{}}. Presets: {', '.join(PRESETS)}"


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
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
    return tuple(value)
