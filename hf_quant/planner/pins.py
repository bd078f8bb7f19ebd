"""Choices that are made before the search: what modules must have, and what they must not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from hf_quant.config.plan import winning_patterns
from hf_quant.config.presets import get_preset
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError, PlanError
from hf_quant.planner.problem import Option, Problem, Unit

Choice: TypeAlias = Scheme | str | None
"""A scheme, the name of a preset, or None or ``"float"``."""
Pins: TypeAlias = Mapping[str, Choice | Sequence[Choice]]
"""Module names or patterns, as in `Plan`, to one choice or several."""


@dataclass(frozen=True)
class _Rule:
    pattern: str
    choices: tuple[Choice, ...]
    forbids: bool

    def __str__(self) -> str:
        words = " or ".join("float" if choice is None else str(choice) for choice in self.choices)
        return f"{self.pattern!r}: {'not ' if self.forbids else ''}{words}"

    def permitted(self, unit: Unit) -> tuple[Option, ...]:
        named = {option for choice in self.choices for option in _named(unit, choice, self.forbids)}
        return tuple(option for option in unit.options if (option in named) != self.forbids)


def pinned(problem: Problem, pins: Pins | None = None, forbidden: Pins | None = None) -> Problem:
    """Restrict the options of a problem to those that pins allow.

    As in a `Plan`, an exact name wins over patterns, and among patterns the last that matches wins; so it is among
    `pins`, and among `forbidden`. A preset stands for its scheme of linears, with any group size where it leaves that
    open, and with any rotation; for a unit that is not offered that, for its scheme of heads, or else of embeddings.

    Args:
        problem: The problem with all options.
        pins: Schemes that modules may have: ``{"lm_head": "int8", "*.down_proj": ["int8", "float"]}``.
        forbidden: Schemes that modules may not have, in the form of `pins`.

    Raises:
        PlanError: A pattern matches no module; pins of modules that share one choice, or a pin and what is forbidden,
            contradict each other (both are named); or a unit is not offered what it is pinned to.
        UnknownName: A preset is not known.
    """
    names = [module for unit in problem.units for module in unit.modules]
    rules: dict[str, list[_Rule]] = {name: [] for name in names}
    for given, forbids in ((pins or {}, False), (forbidden or {}, True)):
        table = {pattern: _Rule(pattern, choices(pattern, value), forbids) for pattern, value in given.items()}
        for name, pattern in winning_patterns(table, names).items():
            rules[name].append(table[pattern])
    return replace(problem, units=tuple(_pinned(unit, rules) for unit in problem.units))


def _pinned(unit: Unit, rules: Mapping[str, Sequence[_Rule]]) -> Unit:
    left = unit.options
    applied: list[tuple[str, _Rule]] = []
    for module in unit.modules:
        for rule in rules[module]:
            permitted = rule.permitted(unit)
            if not permitted:
                raise PlanError(
                    f"{module} is pinned to {rule}, which leaves none of what it is offered: "
                    + ", ".join(option.name for option in unit.options)
                )
            both = tuple(option for option in left if option in permitted)
            if not both:
                raise PlanError(_contradiction(unit, applied, module, rule))
            left = both
            applied.append((module, rule))
    return replace(unit, options=left)


def _contradiction(unit: Unit, applied: Sequence[tuple[str, _Rule]], module: str, rule: _Rule) -> str:
    def clashes(other: _Rule) -> bool:
        return not set(other.permitted(unit)) & set(rule.permitted(unit))

    # Where no two contradict each other alone, all that came before do together.
    against = [pair for pair in applied if clashes(pair[1])][:1] or applied
    words = " and ".join(f"{other} ({name})" for name, other in against)
    shared = f"; {' and '.join(unit.modules)} share one choice" if len(unit.modules) > 1 else ""
    return f"pins contradict each other: {words} against {rule} ({module}){shared}. Keep one of them"


def choices(pattern: str, value: Choice | Sequence[Choice]) -> tuple[Choice, ...]:
    """The choices that one pattern of `Pins` lists, checked.

    Raises:
        ConfigError: The pattern lists nothing, or something that is no choice.
        UnknownName: There is no such preset.
    """
    listed = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if not listed:
        raise ConfigError(f"the pin {pattern!r} lists no schemes; leave it out, or name one")
    for choice in listed:
        if choice is None or isinstance(choice, Scheme) or choice == "float":
            continue
        if not isinstance(choice, str):
            raise ConfigError(f"the pin {pattern!r} takes schemes, names of presets, None or 'float', not {choice!r}")
        get_preset(choice)
    return listed


def _named(unit: Unit, choice: Choice, forbids: bool) -> list[Option]:
    """The options of a unit that a choice of pins stands for."""
    if choice is None or choice == "float":
        return [option for option in unit.options if option.scheme is None]
    schemes = [(option, option.scheme) for option in unit.options if option.scheme is not None]
    if isinstance(choice, Scheme):
        return [option for option, scheme in schemes if _fits(scheme, choice)]
    preset = get_preset(choice)
    for wanted in (preset.linear, preset.head, preset.embedding):
        # "int4" gives a head 8 bits where it has no 4, but who forbids "int4" forbids 4 bits.
        if forbids and wanted.weight.bits != preset.linear.weight.bits:
            continue
        named = [option for option, scheme in schemes if _fits(_unrotated(scheme), _unrotated(wanted))]
        if named:
            return named
    return []


def _fits(scheme: Scheme, wanted: Scheme) -> bool:
    """Whether a scheme is what fitting a wanted one, whose group sizes may be open, to a module can give."""
    if (scheme.input is None) != (wanted.input is None):
        return False
    pairs = [(scheme.weight, wanted.weight)]
    if scheme.input is not None and wanted.input is not None:
        pairs.append((scheme.input, wanted.input))
    return all(_tensor_fits(tensor, open_one) for tensor, open_one in pairs)


def _tensor_fits(tensor: TensorScheme, wanted: TensorScheme) -> bool:
    if (
        wanted.granularity == "group"
        and wanted.group_size is None
        and tensor.granularity in ("group", "channel", "token")
    ):
        # Where no group size divides the width, a plan takes channels, and tokens for inputs.
        tensor = replace(tensor, granularity="group", group_size=None)
    return tensor == wanted


def _unrotated(scheme: Scheme) -> Scheme:
    return replace(scheme, weight=replace(scheme.weight, rotation=None))
