"""A recipe's names and options as the algorithms they stand for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_quant.algorithms import BLOCK_SOLVERS, SOLVERS, TRANSFORMS
from hf_quant.algorithms.base import BlockSolver, Solver, Transform
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError
from hf_quant.formats import AffineFormat, even_format
from hf_quant.observers import OBSERVERS
from hf_quant.observers.base import Observer
from hf_quant.registry import Registry, unknown


@dataclass(frozen=True)
class Algorithms:
    """What a recipe does, ready to run.

    Args:
        transforms: Applied to each block in order.
        solver: Rounds single weights; also those outside blocks where there is a `block_solver`.
        block_solver: Rounds the linears of a block together, or None.
        observer: Name and options.
        bias_correction: Whether biases make up for mean errors.
    """

    transforms: tuple[Transform, ...]
    solver: Solver
    block_solver: BlockSolver | None
    observer: tuple[str, Mapping[str, Any]]
    bias_correction: bool

    @property
    def needs(self) -> frozenset[str]:
        """Statistics of inputs that transforms and solver take."""
        needs = frozenset[str]().union(*(transform.needs for transform in self.transforms))
        needs |= frozenset() if self.block_solver is not None else self.solver.needs
        return needs | ({"mean"} if self.bias_correction else frozenset())

    @property
    def in_blocks(self) -> bool:
        """Whether models without blocks that are run one by one cannot be worked on."""
        return bool(self.transforms) or self.block_solver is not None

    def least_tokens(self, width: int) -> int:
        """Tokens below which the weight of a linear of `width` inputs is rounded to nearest instead of solved."""
        return (self.block_solver or self.solver).least_tokens(width)

    def needs_data(self, plan: Plan) -> bool:
        """Whether the plan cannot be carried out without calibration data."""
        schemes = plan.modules.values()
        return (
            bool(self.needs) or self.block_solver is not None or any(scheme and is_static(scheme) for scheme in schemes)
        )

    def observe(self, scheme: Scheme) -> Observer:
        """A new observer of the input of a module."""
        assert scheme.input is not None
        name, options = self.observer
        return _observer(name, options, even_format(scheme.input))


def algorithms_of(recipe: Recipe | None) -> Algorithms:
    """The algorithms of `recipe`; round to nearest without one.

    Raises:
        ConfigError: An unknown algorithm or option; the nearest valid one is named.
    """
    if recipe is None:
        return Algorithms((), SOLVERS["rtn"](), None, ("percentile", {}), False)
    transforms = tuple(_build(TRANSFORMS, name, options) for name, options in recipe.transforms)
    name, options = recipe.solver
    if name in BLOCK_SOLVERS:
        solver, block_solver = SOLVERS["mse"](), _build(BLOCK_SOLVERS, name, options)
    elif name in SOLVERS:
        solver, block_solver = _build(SOLVERS, name, options), None
    else:
        raise ConfigError(unknown("solver", name, [*SOLVERS, *BLOCK_SOLVERS]))
    # Made for every input anew; this one shows, before anything else is done, that it can be.
    _observer(*recipe.observer, AffineFormat(8))
    return Algorithms(transforms, solver, block_solver, recipe.observer, recipe.bias_correction)


def is_static(scheme: Scheme) -> bool:
    """Whether the input has scales from calibration."""
    return scheme.input is not None and not scheme.input.dynamic


def _observer(name: str, options: Mapping[str, Any], format: AffineFormat) -> Observer:
    found: Observer = _build(OBSERVERS, name, options, format, "tensor")
    return found


def _build(table: Registry, name: str, options: Mapping[str, Any], *args: Any) -> Any:
    algorithm = table[name]
    parameters = list(inspect.signature(algorithm).parameters.values())[len(args) :]
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    if len(known) == len(parameters):
        for option in options:
            if option not in known:
                raise ConfigError(unknown(f"option of {table.kind} {name!r}", option, known))
    try:
        return algorithm(*args, **options)
    except TypeError as error:
        raise ConfigError(f"{table.kind} {name!r} cannot take {dict(options)}: {error}") from error
