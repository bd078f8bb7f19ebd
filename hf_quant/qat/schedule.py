"""What is rounded at which step of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from hf_quant.calibration.pairs import weight_matrix
from hf_quant.errors import ConfigError
from hf_quant.qat.input import StaticInput
from hf_quant.qat.learned_grid import LearnedGrid
from hf_quant.qat.modules import FakeQuantized
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.qat.ranges import initialise_inputs
from hf_quant.qat.sharded import reshard, whole


@dataclass(frozen=True)
class Phase:
    """What is rounded, observed and learned during a step of training.

    Args:
        rounds: Whether weights and dynamic inputs are rounded.
        observes: Whether static inputs are observed; after that they are rounded.
        bits: Bits of weights whose scheme asks for fewer; None: the bits of each scheme.
        frozen: Whether learned grids stay as they are.
    """

    rounds: bool
    observes: bool
    bits: int | None
    frozen: bool


@dataclass(frozen=True)
class Schedule:
    """When rounding, observing and learning of grids begin and end, in optimizer steps.

    Args:
        warmup_steps: Steps in float at the start, in which nothing is rounded.
        observer_steps: Steps after the warm-up in which static inputs are observed and not rounded yet.
        freeze_scales_at: Step from which learned grids stay as they are; None: they always learn.
        bits: Step to the bits of weights from there on, such as ``{0: 8, 500: 6, 1000: 4}``; schemes with more bits
            keep theirs. The first holds from the start. Each change takes the grids anew from the weights. Empty: the
            bits of each scheme all along.

    Raises:
        ConfigError: A step is negative or no whole number, or bits grow.
    """

    warmup_steps: int = 0
    observer_steps: int = 10
    freeze_scales_at: int | None = None
    bits: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "observer_steps", "freeze_scales_at"):
            if not _is_step(getattr(self, name)) and not (name == "freeze_scales_at" and self.freeze_scales_at is None):
                raise ConfigError(f"{name} must be a whole number of steps, not {getattr(self, name)!r}")
        if not isinstance(self.bits, Mapping) or not all(_is_step(step) for step in self.bits):
            raise ConfigError(f"bits maps steps to bits, such as {{0: 8, 500: 4}}; got {self.bits!r}")
        widths = [self.bits[step] for step in sorted(self.bits)]
        if not all(_is_step(bits) and 2 <= bits <= 8 for bits in widths) or widths != sorted(widths, reverse=True):
            raise ConfigError(f"bits must lie between 2 and 8 and never grow; got {dict(self.bits)!r}")
        # With those of the scheme before, they would grow.
        steps = sorted(self.bits)
        object.__setattr__(self, "bits", dict(zip([0, *steps[1:]], widths, strict=False)))

    def at(self, step: int) -> Phase:
        """The phase of a step; steps are counted from 0."""
        started = [start for start in self.bits if start <= step]
        return Phase(
            rounds=step >= self.warmup_steps,
            observes=self.warmup_steps <= step < self.warmup_steps + self.observer_steps,
            bits=self.bits[max(started)] if started else None,
            frozen=self.freeze_scales_at is not None and step >= self.freeze_scales_at,
        )

    def last_change(self, observes: bool) -> int:
        """First step from which the phase stays the same to the end, apart from the freezing of scales.

        Args:
            observes: Whether there are static inputs.
        """
        return max(self.warmup_steps + (self.observer_steps if observes else 0), *self.bits, 0)


def hold(model: nn.Module, phase: Phase) -> None:
    """Let the fake-quantized modules of a model compute as a phase says, on the grids that there are."""
    for _, module in fake_quantized_modules(model):
        if not module.scheme.weight.has_scales:
            continue
        weight, static = module.rounding, module.input_quantizer
        weight.enabled = static.enabled = phase.rounds
        if int(weight.bits):
            weight.use_bits(int(weight.bits))
        if weight.grid is not None and module.sharing[0].weight.requires_grad:
            weight.grid.let_learn(not phase.frozen, phase.rounds)
        if isinstance(static, StaticInput):
            # What is known, from a checkpoint that was quantized already, need not be observed.
            static.observing = phase.observes and not static.grid.is_initialised
            static.grid.let_learn(not phase.frozen, phase.rounds and not static.observing)


def begin(model: nn.Module, phase: Phase) -> None:
    """Start training in a phase, on the grids that there are unless it has other bits.

    Where grids are not yet for what is stored in the end, `WeightQuantizer.bits` says so.
    """
    for name, module in _owners(model):
        bits = _bits(module, phase)
        if bits is not None:
            module.weight_quantizer.initialise(weight_matrix(module, module.weight), f"{name}.weight", bits)
        if not phase.rounds:
            module.weight_quantizer.bits.zero_()
    hold(model, phase)


def change(model: nn.Module, before: Phase, now: Phase) -> bool:
    """Go from one phase to the next, and take new grids where the change asks for some; whether any was taken.

    Raises:
        CalibrationError: Observing ended, and nothing was observed.
        WeightError: A weight holds NaN or Inf.
    """
    new = False
    reshard(model)
    if now.rounds and (not before.rounds or now.bits != before.bits):
        for name, module in _owners(model):
            bits = _bits(module, now)
            if int(module.weight_quantizer.bits) != (bits or module.scheme.weight.bits):
                matrix = weight_matrix(module, whole(module.weight))
                module.weight_quantizer.initialise(matrix, f"{name}.weight", bits)
                new = True
    if before.observes and not now.observes:
        new = initialise_inputs(model) or new
    hold(model, now)
    return new


def next_step(model: nn.Module) -> None:
    """Update the observed ranges of all static inputs at the end of a step.

    Raises:
        CalibrationError: The inputs held NaN or infinity.
    """
    for name, module in fake_quantized_modules(model):
        static = getattr(module, "input_quantizer", None)
        if isinstance(static, StaticInput):
            static.next_step(name)


def drop_gradients(model: nn.Module) -> None:
    """Leave idle grids out of the optimizer's step: momentum would move them by gradients of zero, too."""
    for module in model.modules():
        if isinstance(module, LearnedGrid):
            for parameter in module.idle_parameters():
                parameter.grad = None


def never_learned(model: nn.Module, schedule: Schedule, step: int) -> list[nn.Parameter]:
    """Parameters of grids that have learned in no step before `step`: optimizers have no state of them.

    To be asked before a checkpoint is loaded: static inputs that have a grid by then are not observed.
    """
    end = step if schedule.freeze_scales_at is None else min(step, schedule.freeze_scales_at)
    grids: list[LearnedGrid] = []
    for _, module in fake_quantized_modules(model):
        static, weight = getattr(module, "input_quantizer", None), getattr(module, "weight_quantizer", None)
        if weight is not None and weight.grid is not None and end <= schedule.warmup_steps:
            grids.append(weight.grid)
        if isinstance(static, StaticInput):
            observes = 0 if static.grid.is_initialised else schedule.observer_steps
            if end <= schedule.warmup_steps + observes:
                grids.append(static.grid)
    return [parameter for grid in grids for parameter in grid.parameters()]


def untrained_bits(model: nn.Module, last: Phase) -> list[str]:
    """Modules whose weights are still trained with more bits in the last phase than they are stored with."""
    return [name for name, module in _owners(model) if _bits(module, last) is not None]


def observes_inputs(model: nn.Module) -> bool:
    """Whether any input is static."""
    return any(isinstance(module, StaticInput) for module in model.modules())


def unknown_ranges(model: nn.Module) -> list[str]:
    """Modules with a static input that has no grid yet."""
    modules = fake_quantized_modules(model)
    statics = [(name, getattr(module, "input_quantizer", None)) for name, module in modules]
    return [name for name, each in statics if isinstance(each, StaticInput) and not each.grid.is_initialised]


def _owners(model: nn.Module) -> list[tuple[str, FakeQuantized]]:
    modules = fake_quantized_modules(model)
    return [(name, m) for name, m in modules if m.scheme.weight.has_scales and m.sharing[0] is m]


def _bits(module: FakeQuantized, phase: Phase) -> int | None:
    own = module.scheme.weight.bits
    return None if phase.bits is None or phase.bits <= own else phase.bits


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
