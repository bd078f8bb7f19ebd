"""A plan: module name to scheme. What loading, training, planning and export agree on."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from hf_quant.config.name_ranges import folded, has_ranges, matching, unfolded
from hf_quant.config.presets import get_preset
from hf_quant.config.scheme import AUTO_GROUP_SIZES, Scheme
from hf_quant.errors import ConfigError, PlanError
from hf_quant.registry import unknown

FORMAT_VERSION = 1
"""Version of the plan and of the checkpoint layout it describes."""

_FLOAT = "float"


@dataclass(frozen=True)
class Candidate:
    """What a plan needs to know of a module that can be quantized.

    Args:
        kind: ``"linear"``, ``"embedding"``, ``"head"`` or ``"filters"`` (of a convolution in groups).
        width: Numbers in one row of the weight: the input width, or the embedding's dimension.
        sequential: Whether an item of its input is a sequence, so that inputs get a static grid or none: one of their
            own would let later tokens change earlier ones.
    """

    kind: str
    width: int
    sequential: bool = False


@dataclass(frozen=True)
class Plan:
    """Module patterns to schemes.

    A pattern is a module name, a glob (``*.mlp.*``) or, after ``re:``, a regular expression for the whole name. Names
    and globs may have ranges of numbers (``*.layers.{0-3,7}.*``), each of which has to match a module.
    An exact name wins over patterns; among patterns the last that matches wins. None keeps a module float.

    Args:
        modules: Pattern to `Scheme` or None, in order.

    Raises:
        ConfigError: A pattern is not a string or not a valid expression, or a value is not a scheme.
    """

    modules: Mapping[str, Scheme | None]

    def __post_init__(self) -> None:
        for pattern, scheme in self.modules.items():
            if not isinstance(pattern, str) or not pattern:
                raise ConfigError(f"a plan maps module names or patterns to schemes; {pattern!r} is not a name")
            if scheme is not None and not isinstance(scheme, Scheme):
                raise ConfigError(f"plan entry {pattern!r} must be a Scheme or None, not {scheme!r}")
            if pattern.startswith("re:"):
                try:
                    re.compile(pattern[3:])
                except (re.error, OverflowError, RecursionError) as error:
                    raise ConfigError(f"plan pattern {pattern!r} is not a regular expression: {error}") from error
        object.__setattr__(self, "modules", MappingProxyType(dict(self.modules)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy cannot be pickled.
        return Plan, (dict(self.modules),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        # Nothing in it changes. Models copy their configs, also within a graph, where __reduce__ is not looked at.
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def resolve(self, candidates: Mapping[str, Candidate]) -> Plan:
        """The plan for one model: patterns replaced by the names they match, automatic group sizes by numbers.

        Args:
            candidates: Every module that can be quantized, by name.

        Returns:
            A plan of exact names, in the order of `candidates`; modules that no pattern matches are absent.

        Raises:
            PlanError: A pattern matches nothing (the nearest names are given), or a group size does not
                divide a module's width (those that do are given).
        """
        resolved = {}
        for name, pattern in winning_patterns(self.modules, candidates).items():
            scheme = self.modules[pattern]
            resolved[name] = None if scheme is None else fit(scheme, candidates[name], name)
        return Plan(resolved)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values: each scheme once under a label, and the label of each module.

        Many modules of a kind with one scheme, such as experts, are written as names with ranges, under ``"ranges"``.
        """
        labels: dict[Scheme | None, str] = {None: _FLOAT}
        modules, ranges = folded(self.modules)
        for scheme in [*modules.values(), *ranges.values()]:
            if scheme not in labels:
                label = str(scheme)
                taken = sum(other == label or other.startswith(f"{label} #") for other in labels.values())
                labels[scheme] = f"{label} #{taken + 1}" if taken else label
        values: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "schemes": {label: scheme.to_dict() for scheme, label in labels.items() if scheme is not None},
            "modules": {name: labels[scheme] for name, scheme in modules.items()},
        }
        if ranges:
            values["ranges"] = {name: labels[scheme] for name, scheme in ranges.items()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Read a plan that `to_dict` wrote; rejects unknown keys, newer versions and more than a million names."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"a plan is written as an object with keys, not as {values!r}")
        check_format_version(values.get("format_version"))
        keys = ("format_version", "schemes", "modules", "ranges")
        for key in values:
            if key not in keys:
                raise ConfigError(unknown("plan key", key, keys))
        written, modules, ranges = values.get("schemes"), values.get("modules"), values.get("ranges", {})
        if not isinstance(written, Mapping) or not isinstance(modules, Mapping):
            raise ConfigError('a plan needs the keys "schemes" and "modules", both objects')
        if not isinstance(ranges, Mapping) or not all(isinstance(name, str) for name in ranges):
            raise ConfigError(f'"ranges" of a plan maps names with ranges to schemes, not {str(ranges)[:80]}')
        if _FLOAT in written:
            raise ConfigError(f"{_FLOAT!r} is what a plan calls modules that stay float: give the scheme another label")
        schemes: dict[str, Scheme | None] = {label: Scheme.from_dict(scheme) for label, scheme in written.items()}
        schemes[_FLOAT] = None
        for name, label in [*modules.items(), *ranges.items()]:
            if not isinstance(label, str) or label not in schemes:
                raise ConfigError(f"module {name!r} of the plan: " + unknown("scheme", label, schemes))
        return cls({name: schemes[label] for name, label in unfolded(modules, ranges).items()})


def winning_patterns(patterns: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """The pattern that decides for each name: an exact one if there is, else the last that matches.

    Args:
        patterns: Names, globs and regular expressions, as `Plan` takes them, in order.
        names: Names of all modules.

    Returns:
        Name to pattern, in the order of `names`; names that no pattern matches are absent.

    Raises:
        PlanError: A pattern matches nothing; the nearest names are given.
    """
    chosen: dict[str, str] = {}
    patterns, known = list(patterns), set(names)
    exact = {pattern for pattern in patterns if pattern in known}
    for pattern in patterns:
        matched = [pattern] if pattern in exact else _matching(pattern, names)
        if not matched:
            raise PlanError(unmatched("plan pattern", pattern, names))
        for name in matched:
            if pattern in exact or name not in exact:
                chosen[name] = pattern
    return {name: chosen[name] for name in names if name in chosen}


def preset_plan(preset: str, candidates: Mapping[str, Candidate]) -> Plan:
    """The resolved plan of a preset for the modules of one model."""
    table = get_preset(preset)
    return Plan({name: table.scheme_for(entry.kind, entry.width) for name, entry in candidates.items()}).resolve(
        candidates
    )


def fit(scheme: Scheme, candidate: Candidate, name: str) -> Scheme:
    """A scheme as it applies to one module: group size settled, and no input format for an embedding.

    An automatic group size becomes the largest of 128, 64, 32 that divides the width; where none does, one
    group spans the whole row, which is one scale per channel, or per token for inputs.

    Raises:
        PlanError: An explicit group size does not divide the width.
    """
    weight, width = scheme.weight, candidate.width
    if candidate.kind == "embedding" and scheme.input is not None:
        scheme = replace(scheme, input=None)
    input = scheme.input
    if candidate.kind == "filters" and input is not None:
        if input.dynamic and candidate.sequential:
            scheme = replace(scheme, input=None)
        elif input.granularity == "group":
            scheme = replace(scheme, input=replace(input, granularity="token", group_size=None))
    if weight.rotation is not None and width % weight.rotation:
        raise PlanError(
            f"{name}: rotation={weight.rotation} does not divide its width {width}; use a smaller power of two"
        )
    if weight.granularity != "group":
        return scheme
    if weight.group_size is None:
        size = next((size for size in AUTO_GROUP_SIZES if width % size == 0), None)
        weight = replace(weight, granularity="channel" if size is None else "group", group_size=size)
        input = scheme.input
        if input is not None and input.granularity == "group":
            input = replace(input, granularity="token" if size is None else "group", group_size=size)
        return Scheme(weight, input)
    if width % weight.group_size:
        fitting = [size for size in range(8, width + 1) if width % size == 0] or [width]
        raise PlanError(
            f"{name}: group_size={weight.group_size} does not divide its width {width}; "
            f"these do: {', '.join(map(str, fitting))}. group_size=None picks one."
        )
    return scheme


def check_format_version(version: object) -> None:
    """Raise ConfigError unless `version` is one that this package reads."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigError(f"format_version must be an integer from 1 to {FORMAT_VERSION}, not {version!r}")
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"format_version {version} is newer than this package reads ({FORMAT_VERSION}): "
            "upgrade with `pip install -U hf-quant`"
        )


def unmatched(kind: str, pattern: str, names: Iterable[str]) -> str:
    """The message for a pattern that matches no module, with the nearest of `names`."""
    known = list(names)
    near = difflib.get_close_matches(pattern.removeprefix("re:"), known, n=3, cutoff=0.3) or known[:3]
    hint = "; ranges of numbers are written as in layers.{0-3,7}.mlp" if "{" in pattern else ""
    return f"{kind} {pattern!r} matches no module; nearest: {', '.join(near)}{hint}"


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    if pattern.startswith("re:"):
        expression = re.compile(pattern[3:])
        return [name for name in names if expression.fullmatch(name)]
    if has_ranges(pattern):
        return matching(pattern, names)
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
