"""The problem a search solves: one option for each unit of modules, in plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError

Assignment = tuple[int, ...]
"""The number of the chosen option for each unit, in the order of `Problem.units`."""


@dataclass(frozen=True)
class Option:
    """One scheme that a unit may get, with its costs and predicted loss.

    Args:
        scheme: How the unit's modules are quantized; None leaves them float.
        bytes: Bytes on disk: codes, scales and zero points, or float numbers.
        loss: Predicted increase of the model's loss, in the unit of the sensitivities; noise may push it below 0.
        milliseconds: Time of the unit's modules in one pass; None where it is not known.

    Raises:
        PlanError: A number is NaN, infinite or, but for the loss, negative.
    """

    scheme: Scheme | None
    bytes: int
    loss: float
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        name = self.name
        if not math.isfinite(self.loss):
            raise PlanError(f"the loss of {name} is {self.loss}: measure it again, or leave the option out")
        if isinstance(self.bytes, bool) or not isinstance(self.bytes, int) or self.bytes < 0:
            raise PlanError(f"the bytes of {name} must be an integer of at least 0, not {self.bytes!r}")
        if self.milliseconds is not None and not (math.isfinite(self.milliseconds) and self.milliseconds >= 0):
            raise PlanError(f"the milliseconds of {name} must be finite and at least 0, not {self.milliseconds!r}")

    @property
    def name(self) -> str:
        """The scheme in short, or ``"float"``."""
        return "float" if self.scheme is None else str(self.scheme)


@dataclass(frozen=True)
class Unit:
    """Modules that share one choice, such as query, key and value, or an embedding and the head tied to it.

    Args:
        modules: Names of the modules.
        weights: Number of elements of the modules' weights, a shared weight counted once.
        options: Options to choose from, each scheme once.

    Raises:
        PlanError: There are no modules, weights or options, or a name or a scheme is there twice.
    """

    modules: tuple[str, ...]
    weights: int
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not self.modules:
            raise PlanError("a unit needs at least one module")
        if not self.options:
            raise PlanError(f"{self.name}: a unit needs at least one option; None as scheme leaves it float")
        if isinstance(self.weights, bool) or not isinstance(self.weights, int) or self.weights < 1:
            raise PlanError(f"{self.name}: weights must be an integer of at least 1, not {self.weights!r}")
        if len(set(self.modules)) < len(self.modules):
            raise PlanError(f"{self.name}: a module is named twice in {self.modules}")
        schemes = [option.scheme for option in self.options]
        if len(set(schemes)) < len(schemes):
            twice = next(option.name for option in self.options if schemes.count(option.scheme) > 1)
            raise PlanError(f"{self.name}: {twice} is offered twice; keep one of the two")

    @property
    def name(self) -> str:
        """The first module's name, with how many more there are."""
        return self.modules[0] + (f" (+{len(self.modules) - 1})" if len(self.modules) > 1 else "")

    def bits(self, index: int) -> float:
        """Bits per weight of an option, scales and zero points counted."""
        return 8 * self.options[index].bytes / self.weights


@dataclass(frozen=True)
class Totals:
    """What an assignment costs; `milliseconds` is None if that of a chosen option is not known."""

    bytes: int
    loss: float
    milliseconds: float | None


@dataclass(frozen=True)
class Problem:
    """Units with their options, and the costs that no choice changes.

    Args:
        units: Units of modules, in the order of the model.
        fixed_bytes: Bytes that no choice changes: norms, biases, headers.
        float_bytes: Bytes of the whole float model.
        fixed_milliseconds: Milliseconds that no choice changes.

    Raises:
        PlanError: There are no units, a module is in two of them, or a number is negative or not finite.
    """

    units: tuple[Unit, ...]
    _: KW_ONLY
    fixed_bytes: int
    float_bytes: int
    fixed_milliseconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.units:
            raise PlanError("there is nothing to choose: no module of the model can be quantized")
        owner: dict[str, Unit] = {}
        for unit in self.units:
            for module in unit.modules:
                if module in owner:
                    raise PlanError(f"{module} is in two units, {owner[module].name} and {unit.name}; merge them")
                owner[module] = unit
        for name, value, least in (("fixed_bytes", self.fixed_bytes, 0), ("float_bytes", self.float_bytes, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PlanError(f"{name} must be an integer of at least {least}, not {value!r}")
        if not (math.isfinite(self.fixed_milliseconds) and self.fixed_milliseconds >= 0):
            raise PlanError(f"fixed_milliseconds must be finite and at least 0, not {self.fixed_milliseconds!r}")

    @property
    def weights(self) -> int:
        """Number of elements of the weights of all units."""
        return sum(unit.weights for unit in self.units)

    def chosen(self, assignment: Sequence[int]) -> list[Option]:
        """The options that an assignment chooses, one for each unit.

        Raises:
            PlanError: The assignment has another length, or an index that its unit does not have.
        """
        if len(assignment) != len(self.units):
            raise PlanError(f"an assignment for {len(self.units)} units has {len(assignment)} choices")
        for unit, index in zip(self.units, assignment, strict=True):
            if not 0 <= index < len(unit.options):
                raise PlanError(f"{unit.name} has {len(unit.options)} options, numbered from 0; there is no {index}")
        return [unit.options[index] for unit, index in zip(self.units, assignment, strict=True)]

    def totals(self, assignment: Sequence[int]) -> Totals:
        """Bytes, predicted loss and milliseconds of the whole model."""
        options = self.chosen(assignment)
        times = [option.milliseconds for option in options]
        return Totals(
            bytes=self.fixed_bytes + sum(option.bytes for option in options),
            # fsum: the same in any order of addition, and so for any two ways to the same assignment.
            loss=math.fsum(option.loss for option in options),
            milliseconds=None if None in times else math.fsum([self.fixed_milliseconds, *times]),  # type: ignore[list-item]
        )

    def bits_per_weight(self, assignment: Sequence[int]) -> float:
        """Average bits per weight of an assignment, scales and zero points counted, `fixed_bytes` not."""
        return 8 * (self.totals(assignment).bytes - self.fixed_bytes) / self.weights

    def plan(self, assignment: Sequence[int]) -> Plan:
        """The plan of exact module names that an assignment stands for."""
        options = self.chosen(assignment)
        return Plan(
            {module: option.scheme for unit, option in zip(self.units, options, strict=True) for module in unit.modules}
        )
