"""Options of `hf_quant.search_plan`, by what they are about: what is offered, how it is searched, how it is judged.

This file alone knows their defaults; the command line and the keywords of `search_plan` read them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from hf_quant.config.recipe import Recipe
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError
from hf_quant.planner.cost.latency import Pass
from hf_quant.planner.cost.table import KernelTable
from hf_quant.planner.offered import offered
from hf_quant.planner.pins import Pins, choices
from hf_quant.planner.quality import QUALITIES
from hf_quant.planner.search import OPTIONS, STRATEGIES
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.portability.several import are_fused, taken_instead
from hf_quant.registry import unknown

_Group = TypeVar("_Group", "Offer", "Search", "Judge")


@dataclass(frozen=True)
class Offer:
    """What schemes modules are offered, and what these cost.

    Args:
        schemes: Schemes that modules are offered, beside staying float; None for `planner.offered.SCHEMES`.
        hardware: Name of a hardware profile. Offered are its fastest preset of each number of bits or, if `schemes` are
            given, those that a preset of it resembles; a module is offered only what its width and groups suit there.
        kernels: Kernel times of the machine in question, or their file, from ``hf-quant hardware --measure``. None: a
            budget in milliseconds is for this machine, whose kernels are measured if they were not yet.
        step: Forward pass that milliseconds are of; None: one token after 512 for models that write text, else 128
            tokens.
        fused: Whether linears with one input, such as query, key and value, must share one scheme, as they have to
            where a runtime computes them together.
        portable_to: Names of targets, such as ``"onnx"``, that all have to take the plan: offered are schemes changed
            as little as they ask for, and to a module only what none of them refuses. Linears of one input share one
            scheme if one of them computes these together.
        pins: Schemes that modules may have: ``{"lm_head": "int8", "*.down_proj": ["int8", "float"]}``.
        forbidden: Schemes that modules may not have, in the form of `pins`.
        dtype: Dtype that parameters which stay float will be saved in, for counting bytes; None: the model's.

    Raises:
        ConfigError: No scheme is offered, or a value is of the wrong type.
        UnknownName: There is no such hardware, target or preset.
    """

    schemes: Sequence[Scheme] | None = None
    hardware: str | None = None
    kernels: KernelTable | str | Path | None = None
    step: Pass | None = None
    fused: bool = False
    portable_to: Sequence[str] = ()
    pins: Pins | None = None
    forbidden: Pins | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.schemes is not None:
            object.__setattr__(self, "schemes", tuple(self.schemes))
        if isinstance(self.portable_to, str):
            object.__setattr__(self, "portable_to", (self.portable_to,))
        object.__setattr__(self, "portable_to", tuple(self.portable_to))
        for scheme in offered(self.schemes, self.hardware):
            _check("schemes", scheme, Scheme)
        self.offered()
        _check("kernels", self.kernels, KernelTable | str | Path | None)
        _check("step", self.step, Pass | None)
        _check("fused", self.fused, bool)
        _check("dtype", self.dtype, torch.dtype | None)
        for name in ("pins", "forbidden"):
            _check(name, getattr(self, name), Mapping | None)
            for pattern, value in (getattr(self, name) or {}).items():
                choices(pattern, value)

    @property
    def together(self) -> bool:
        """Whether linears of one input must share one scheme."""
        return self.fused or are_fused(self.portable_to)

    def offered(self) -> list[Scheme]:
        """Schemes that modules are offered, beside staying float.

        Raises:
            ConfigError: None is left.
            UnknownName: There is no such hardware or target.
        """
        schemes = offered(self.schemes, self.hardware)
        found = taken_instead(schemes, self.portable_to) if self.portable_to else schemes
        if not found:
            raise ConfigError(
                f"there is no scheme that {' and '.join(self.portable_to)} take, like those that are offered: ask for "
                "fewer targets"
            )
        return found


@dataclass(frozen=True)
class Search:
    """How plans are searched.

    Args:
        strategy: Name of the search strategy, one of `planner.search.STRATEGIES`.
        evaluations: Most plans that the strategy may measure; only for strategies that measure plans, such as
            ``evolutionary``. None: the default in `planner.search.OPTIONS`.
        seed: Seed of the strategy's random choices; only for strategies that measure plans. None: the default in
            `planner.search.OPTIONS`.

    Raises:
        ConfigError: The strategy has no option that is given, or a value is no whole number.
        UnknownName: There is no such strategy.
    """

    strategy: str = "ilp"
    evaluations: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        STRATEGIES[self.strategy]
        for name, least in (("evaluations", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, OPTIONS.get(self.strategy, {}).get(name))
            elif self.strategy not in OPTIONS:
                raise ConfigError(
                    f"{self.strategy} has no option {name}, which is one of {', '.join(OPTIONS)}: leave it out"
                )
            else:
                _check_count(name, value, least)

    @property
    def options(self) -> dict[str, int]:
        """Options that are passed to the strategy; empty for strategies that go by predictions alone."""
        return {name: getattr(self, name) for name in OPTIONS.get(self.strategy, {})}


@dataclass(frozen=True)
class Judge:
    """How plans are judged: how their losses are predicted and measured, and by which algorithms they are carried out.

    Args:
        measure: Name of the sensitivity measure, one of `planner.sensitivity.MEASURES`.
        losses: File that sensitivities are read from, or else written to, so that several budgets need one analysis. An
            analysis that was interrupted goes on from what it left beside the file.
        metric: Metric that measured plans are judged by, one of `planner.quality.QUALITIES`. With ``"accuracy"``,
            ``"drop<=1%"`` is one percentage point: the search begins with plans that are predicted to raise the loss by
            0.01, and measuring tells what that does to the accuracy.
        measurements: Most plans to measure after the search; 0: the plan is taken as predicted.
        recipe: Transforms and solver that the plan is carried out by, also when it is measured, calibrated on the data
            of the analysis. Sensitivities are of rounding to nearest: those of linears are scaled by the part of the
            loss that the recipe leaves, which is measured first. The recipe's own schemes and data do not count. None:
            weights are rounded to nearest.

    Raises:
        ConfigError: A value is of the wrong type.
        UnknownName: There is no such measure or metric.
    """

    measure: str = "fisher"
    losses: str | Path | None = None
    metric: str = "loss"
    measurements: int = 5
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        MEASURES[self.measure], QUALITIES[self.metric]
        _check("losses", self.losses, str | Path | None)
        _check_count("measurements", self.measurements, 0)
        _check("recipe", self.recipe, Recipe | None)


def option_groups(
    offer: Offer | Mapping[str, Any] | None,
    search: Search | Mapping[str, Any] | None,
    judge: Judge | Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
) -> tuple[Offer, Search, Judge]:
    """The `Offer`, `Search` and `Judge` of a search, from objects or dicts and from keywords named as their fields.

    Raises:
        ConfigError: A keyword, or a key of a dict, is unknown (the nearest valid one is named), or a keyword and an
            object say different things.
    """
    known = [entry.name for group in (Offer, Search, Judge) for entry in fields(group)]
    for key in keywords:
        if key not in known:
            raise ConfigError(unknown("option of search_plan", key, ["offer", "search", "judge", *known]))
    return _group(Offer, offer, keywords), _group(Search, search, keywords), _group(Judge, judge, keywords)


def _group(group: type[_Group], given: _Group | Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> _Group:
    word, known = group.__name__.lower(), [entry.name for entry in fields(group)]
    said = {name: keywords[name] for name in known if name in keywords}
    if given is None:
        return group(**said)
    if isinstance(given, Mapping):
        for key in given:
            if key not in known:
                raise ConfigError(unknown(f"key of {word}", key, known))
        given = group(**given)
    if not isinstance(given, group):
        raise ConfigError(f"{word} takes {group.__name__}(...), or a dict of {', '.join(known)}, not {given!r}")
    other = replace(given, **said)
    for name in said:
        if getattr(other, name) != getattr(given, name):
            raise ConfigError(
                f"{word} says {name}={getattr(given, name)!r}, and beside it is {name}={said[name]!r}: leave one out"
            )
    return given


def _check(name: str, value: Any, kinds: Any) -> None:
    if not isinstance(value, kinds):
        raise ConfigError(f"{name} takes {getattr(kinds, '__name__', kinds)}, not {value!r}")


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is a whole number from {least} on, not {value!r}")
