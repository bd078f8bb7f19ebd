"""Timing the kernels that dispatch would choose, at shapes of real models."""

from __future__ import annotations

import copy
import datetime
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from tqdm.auto import tqdm

from hf_quant.algorithms import SOLVERS
from hf_quant.config.plan import Candidate, fit
from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme
from hf_quant.evaluation.other_processes import OtherProcesses
from hf_quant.hardware.detect import cpu_features
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.swap import SWAPS
from hf_quant.planner.cost.quiet import Quiet, Timed, least_disturbed
from hf_quant.planner.cost.table import Cell, KernelTable, Overhead
from hf_quant.planner.cost.table_file import this_machine
from hf_quant.planner.cost.timing import Work, in_turn, quartiles, timed_in_turn

Overheads = Callable[[Quiet], tuple[Overhead, ...]]
"""Function that measures the time models take besides their linears, in quiet moments."""

_INT4 = PRESETS["int4"].linear


def _of_bits(bits: int) -> Scheme:
    return replace(_INT4, weight=replace(_INT4.weight, bits=bits))


SCHEMES: dict[str, Scheme] = {
    **{name: PRESETS[name].linear for name in ("int8", "int8-static", "w8a16", "int4", "w4a16", "bf16")},
    **{f"w{bits}a8": _of_bits(bits) for bits in (6, 5, 3, 2)},
}
"""Schemes that are measured by default, beside float32."""


@dataclass(frozen=True)
class Effort:
    """How long and how thoroughly kernels are measured.

    Args:
        shapes: Shapes of linears: input and output channels.
        tokens: Numbers of input rows that each shape is measured at.
        rounds: Number of timings of each cell in one sweep.
        turn: Seconds of one timing.
        memory: Bytes of all copies of a weight, so many that each call reads its weight from memory, not from a cache.
        heads: Shapes of heads, measured at few tokens only, since only a prompt's last token needs one.
        sweeps: Number of passes over all cells. They spread the timings of each cell over the whole measurement, as a
            shared machine is faster at one time and slower at another.
        patience: Most seconds to wait in total for moments without load from other processes.
    """

    shapes: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    rounds: int
    turn: float
    memory: int
    heads: tuple[tuple[int, int], ...] = ()
    sweeps: int = 1
    patience: float = 10.0

    def cases(self) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Each shape with the numbers of tokens that it is measured at."""
        for shape in self.shapes:
            yield shape, list(self.tokens)
        for shape in self.heads:
            yield shape, [tokens for tokens in self.tokens if tokens <= _FEW]


_FEW = 8

THOROUGH = Effort(
    shapes=((384, 1536), (768, 768), (768, 3072), (3072, 768), (2048, 2048), (2048, 8192)),
    tokens=(1, 8, 32, 128, 512),
    rounds=3,
    turn=0.01,
    memory=64 << 20,
    heads=((768, 32768),),
    sweeps=3,
    patience=180.0,
)
QUICK = Effort(shapes=((384, 384), (768, 768), (768, 3072)), tokens=(1, 8, 128), rounds=3, turn=0.003, memory=64 << 20)


class TableMeasurement:
    """Measures a kernel table in sweeps over all cells; other work may be done between sweeps.

    Args:
        effort: How much is measured: `THOROUGH`, `QUICK`, or your own `Effort`.
        schemes: Labels to schemes of linears; None for `SCHEMES`. 16-bit floats that the processor only emulates are
            left out.
        overheads: Measures the time models take besides linears, once in each sweep; None: not measured.
        progress: Show a progress bar.
    """

    def __init__(
        self,
        effort: Effort = THOROUGH,
        schemes: Mapping[str, Scheme] | None = None,
        overheads: Overheads | None = None,
        progress: bool = True,
    ):
        self.effort, self.progress = effort, progress
        self.quiet = Quiet(effort.patience)
        self._measure_overheads = overheads
        self._skipped: dict[str, str] = {}
        self._schemes: list[Scheme] = []
        for label, scheme in (SCHEMES if schemes is None else schemes).items():
            reason = _emulated(scheme)
            if reason is None:
                self._schemes.append(scheme)
            else:
                self._skipped[label] = reason
        self._times: dict[tuple[Scheme | None, int, int, int], list[Timed[float]]] = {}
        self._kernels: dict[tuple[Scheme | None, int, int, int], str] = {}
        self._overheads: list[tuple[float, tuple[Overhead, ...]]] = []
        self._rates: list[tuple[float, float]] = []
        self._busy: list[float] = []

    @torch.inference_mode()
    def sweep(self) -> None:
        """Time float32 and every scheme once more at each shape and number of tokens, and the overheads."""
        others = OtherProcesses()
        cases = list(self.effort.cases())
        total = sum(len(tokens) for _, tokens in cases)
        label = "kernels" if self.effort.sweeps == 1 else f"kernels, sweep {len(self._busy) + 1}"
        with tqdm(total=total, unit="shape", disable=not self.progress, desc=label, dynamic_ncols=True) as bar:
            for shape, numbers in cases:
                modules = list(_modules(shape, self._schemes, self.effort.memory))
                for tokens in numbers:
                    self._time(modules, shape, tokens)
                    bar.update()
        if self._measure_overheads is not None:
            timed, disturbed = self.quiet.timed, self.quiet.disturbed
            found = self._measure_overheads(self.quiet)
            share = (self.quiet.disturbed - disturbed) / max(1, self.quiet.timed - timed)
            self._overheads.append((share, found))
        self._rates.append((read_rate(self.effort), multiply_rate(self.effort)))
        self._busy.append(others.cores())

    def table(self) -> KernelTable:
        """The kernel table: medians over the undisturbed timings of all sweeps, at least one, and the highest rates."""
        read, multiply = (max(rates) for rates in zip(*self._rates, strict=True))
        return KernelTable(
            machine=this_machine(),
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            cells=tuple(self._cells()),
            overheads=tuple(_median(each) for each in zip(*least_disturbed(self._overheads), strict=True)),
            read=read,
            multiply=multiply,
            busy=round(statistics.mean(self._busy), 3),
            disturbed=round(self.quiet.disturbed / max(1, self.quiet.timed), 3),
            skipped=self._skipped,
        )

    def _time(self, modules: list[tuple[Scheme | None, list[nn.Module]]], shape: tuple[int, int], tokens: int) -> None:
        input = torch.randn(tokens, shape[0])
        works = [_cycle(copies, input) for _, copies in modules]
        rounds = timed_in_turn(works, self.effort.rounds, self.effort.turn, self.quiet)
        for (scheme, copies), timed in zip(modules, zip(*rounds, strict=True), strict=True):
            key = (scheme, *shape, tokens)
            self._times.setdefault(key, []).extend(timed)
            self._kernels[key] = str(getattr(copies[0], "kernel", "torch"))

    def _cells(self) -> Iterator[Cell]:
        for key, timed in self._times.items():
            spread = quartiles(self.quiet.quietest(timed))
            milliseconds = (1e3 * spread.median, 1e3 * spread.low, 1e3 * spread.high)
            yield Cell(*key, *milliseconds, self._kernels[key])


def measure_table(
    effort: Effort = THOROUGH,
    schemes: Mapping[str, Scheme] | None = None,
    overheads: Overheads | None = None,
    progress: bool = True,
) -> KernelTable:
    """Measure a kernel table in as many sweeps as `effort` says; the arguments are those of `TableMeasurement`."""
    measurement = TableMeasurement(effort, schemes, overheads, progress)
    for _ in range(effort.sweeps):
        measurement.sweep()
    return measurement.table()


def read_rate(effort: Effort) -> float:
    """Highest rate of reading memory, in bytes per second: a sum over more memory than caches hold."""
    values = torch.ones(max(effort.memory, 64 << 20) // 4)
    return values.nbytes / min(row[0] for row in in_turn([values.sum], effort.rounds, effort.turn))


def multiply_rate(effort: Effort) -> float:
    """Highest rate of a float32 matrix product, in operations per second."""
    matrix = torch.randn(512, 512)
    work: Work = lambda: matrix @ matrix  # noqa: E731
    return 2 * 512**3 / min(row[0] for row in in_turn([work], effort.rounds, effort.turn))


def _cycle(copies: list[nn.Module], input: torch.Tensor) -> Work:
    for module in copies:
        module(input)  # lays out what is laid out at first use
    endless = itertools.cycle(copies)
    return lambda: next(endless)(input)


def _modules(
    shape: tuple[int, int], schemes: Iterable[Scheme], memory: int
) -> Iterator[tuple[Scheme | None, list[nn.Module]]]:
    plain = nn.Linear(*shape, bias=False)
    yield None, _copies(plain, memory)
    for scheme in schemes:
        fitted = fit(scheme, Candidate("linear", shape[0]), "the measurement")
        yield fitted, _copies(quantized(plain, fitted), memory)


def quantized(plain: nn.Linear, scheme: Scheme) -> nn.Module:
    """A linear quantized by rounding to nearest and packed for its kernel; the scheme's group size must be settled."""
    if not scheme.weight.has_scales:
        stored = SWAPS[nn.Linear][1](plain, scheme, False, torch.device("cpu"))
        stored.load_state_dict(plain.state_dict())
        return stored
    module = QuantizedLinear(plain.in_features, plain.out_features, False, scheme, dtype=torch.float32)
    solved = SOLVERS["rtn"]().solve(plain.weight.detach(), scheme.weight, "weight")
    module.fill(solved)
    if module.input_scale is not None:
        module.input_scale.fill_(0.03)  # a grid for the normal numbers that inputs are
    if module.input_zero_point is not None:
        module.input_zero_point.zero_()
    module.prepare()
    return module


def _median(found: Sequence[Overhead]) -> Overhead:
    """Medians, number by number, of overheads of one family and kind."""
    sweeps = [overhead.times() for overhead in found]
    medians = {name: statistics.median(each[name] for each in sweeps) for name in sweeps[0]}
    return Overhead(found[0].family, found[0].kind, **medians)


def _copies(module: nn.Module, memory: int) -> list[nn.Module]:
    tensors = getattr(module, "packed", ()) or module.parameters()
    size = sum(tensor.untyped_storage().nbytes() for tensor in tensors) or 1
    return [module, *(copy.deepcopy(module) for _ in range(memory // size))]


def _emulated(scheme: Scheme) -> str | None:
    if scheme.weight.format == "bfloat" and not cpu_features().multiplies_bfloat16:
        return "this processor emulates bfloat16, many times slower than float32"
    return None
