"""Times of kernels at the shapes that were measured, on one machine: what predictions are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError, HfQuantError

TABLE_VERSION = 4
"""Version of the file's layout; bytes and times of another version are not comparable."""

FLOAT = "float32"
"""Label of linears that are not quantized."""

KINDS = ("float", "fused", "mixed")
"""Kinds of blocks: float, quantized to one scheme, or to several."""

_AGAIN = "measure it again with `hf-quant hardware --measure`"


@dataclass(frozen=True)
class Cell:
    """Time of one linear at one number of tokens: a call of its module, the weight read from memory.

    Args:
        scheme: Scheme of the linear; None for float32.
        inputs: Input channels of the linear.
        outputs: Output channels of the linear.
        tokens: Rows of the input (tokens x batch).
        milliseconds: Median time of a call over the rounds.
        low: Lower quartile of the time, in milliseconds.
        high: Upper quartile of the time, in milliseconds.
        kernel: Name of the kernel that dispatch chose; ``"torch"`` for floats.
    """

    scheme: Scheme | None
    inputs: int
    outputs: int
    tokens: int
    milliseconds: float
    low: float
    high: float
    kernel: str

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "tokens"):
            _positive(name, getattr(self, name), int)
        for name in ("milliseconds", "low", "high"):
            _positive(name, getattr(self, name), float)
        if not self.low <= self.milliseconds <= self.high:
            raise ConfigError(f"a cell's median {self.milliseconds} is not between its quartiles; {_AGAIN}")
        if not isinstance(self.scheme, Scheme | None) or not isinstance(self.kernel, str):
            raise ConfigError(f"a cell has a scheme and the name of a kernel; {_AGAIN}")


@dataclass(frozen=True)
class Overhead:
    """Time that a model takes besides its linears: norms, activation functions, attention, Python.

    Args:
        family: How the blocks are built: ``"llama"``, ``"gpt2"`` or ``"bert"``.
        kind: Kind of the blocks, one of `KINDS`. A block whose linears all have one scheme is fused into few calls,
            while linears were measured one by one: what that saves counts here, so that a number may be below 0.
        block: Milliseconds of a block, for one token.
        block_per_number: Milliseconds more for each number of the hidden states, ``tokens * hidden``, beyond one token.
        model: Milliseconds outside the blocks, heads not counted.
        attention: Milliseconds of an operation of attention, as `latency.attention_operations` counts them; 0 where it
            was too little to measure: the rate of float32 products is then used.
        cache_block: Milliseconds that a block takes more with a cache of keys and values.
        cache_per_byte: Milliseconds more for each byte that the cache of a block holds.
        cache_per_read: Milliseconds more for each byte of the cache that query heads read: keys and values that heads
            share count once for each head. 0 where no such model was measured, and `cache_per_byte` covers both.
        cache_model: Milliseconds more outside the blocks with a cache of keys and values.
    """

    family: str
    kind: str
    block: float
    block_per_number: float
    model: float
    attention: float = 0.0
    cache_block: float = 0.0
    cache_per_byte: float = 0.0
    cache_per_read: float = 0.0
    cache_model: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or self.kind not in KINDS:
            raise ConfigError(f"an overhead names a family and a kind, {', '.join(KINDS)}; {_AGAIN}")
        for name, value in self.times().items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"an overhead's {name} must be a finite number, not {value!r}; {_AGAIN}")

    def times(self) -> dict[str, float]:
        """Names of the fields to the measured times, in milliseconds."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in ("family", "kind")}


@dataclass(frozen=True)
class Machine:
    """Machine, library and number of threads that a kernel table is valid for.

    Args:
        cpu: Model name of the processor.
        threads: Number of threads that torch computes with.
        isa: Instruction set of the native library; ``"none"`` without the library.
        library: Versions of this package and of torch.
    """

    cpu: str
    threads: int
    isa: str
    library: str

    def __post_init__(self) -> None:
        _positive("threads", self.threads, int)
        for name in ("cpu", "isa", "library"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"a table's {name} is a text, not {getattr(self, name)!r}; {_AGAIN}")


@dataclass(frozen=True)
class KernelTable:
    """Everything that was measured on one machine.

    Args:
        machine: Machine that the table is of.
        date: Date of the measurement, ISO 8601.
        cells: Times of linears, float32 among them.
        overheads: Times of blocks and models besides their linears; if empty, these count as 0.
        read: Rate of reading memory, in bytes per second.
        multiply: Rate of a float32 matrix product, in operations per second.
        busy: Cores that other processes kept busy meanwhile, on average; above 0.2 the times are doubtful.
        skipped: Labels of schemes that were not measured, to the reason.
        disturbed: Share of the timings, 0 to 1, during which others slowed the processor in spite of waiting.

    Raises:
        ConfigError: A number is NaN, infinite, negative or missing, a cell is there twice, or there is no float32.
    """

    machine: Machine
    date: str
    cells: tuple[Cell, ...]
    overheads: tuple[Overhead, ...]
    read: float
    multiply: float
    busy: float
    skipped: Mapping[str, str]
    disturbed: float = 0.0

    def __post_init__(self) -> None:
        _positive("read", self.read, float)
        _positive("multiply", self.multiply, float)
        for name in ("busy", "disturbed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ConfigError(f"a table's {name} must be a number of at least 0, not {value!r}; {_AGAIN}")
        if not isinstance(self.date, str):
            raise ConfigError(f"a table's date is a text, not {self.date!r}; {_AGAIN}")
        keys = [(cell.scheme, cell.inputs, cell.outputs, cell.tokens) for cell in self.cells]
        if len(set(keys)) < len(keys):
            raise ConfigError(f"the table has a cell twice; {_AGAIN}")
        if not any(cell.scheme is None for cell in self.cells):
            raise ConfigError(f"the table has no float32, which all else is compared with; {_AGAIN}")

    def schemes(self) -> list[Scheme | None]:
        """Every scheme that was measured, None for float32."""
        return list(dict.fromkeys(cell.scheme for cell in self.cells))

    def to_dict(self) -> dict[str, Any]:
        """The table as a JSON-ready dict: each scheme once under a label, and the label in each cell."""
        labels: dict[Scheme | None, str] = {None: FLOAT}
        for scheme in self.schemes():
            if scheme is not None:
                labels[scheme] = f"{len(labels)}: {scheme}"
        return {
            "table_version": TABLE_VERSION,
            "machine": asdict(self.machine),
            "date": self.date,
            "read": self.read,
            "multiply": self.multiply,
            "busy": self.busy,
            "disturbed": self.disturbed,
            "skipped": dict(self.skipped),
            "schemes": {label: scheme.to_dict() for scheme, label in labels.items() if scheme is not None},
            "overheads": [asdict(overhead) for overhead in self.overheads],
            "cells": [
                {entry.name: getattr(cell, entry.name) for entry in fields(Cell)} | {"scheme": labels[cell.scheme]}
                for cell in self.cells
            ],
        }

    @classmethod
    def from_dict(cls, values: Any) -> KernelTable:
        """A table from what `to_dict` gives.

        Raises:
            ConfigError: The values are no table, of another version, or hold what cannot have been measured.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a kernel table is an object with keys, not {type(values).__name__}; {_AGAIN}")
        version = values.get("table_version")
        if isinstance(version, bool) or version != TABLE_VERSION:
            raise ConfigError(f"the kernel table is of version {version!r}, not {TABLE_VERSION}; {_AGAIN}")
        try:
            schemes: dict[str, Scheme | None] = {
                label: Scheme.from_dict(scheme) for label, scheme in values["schemes"].items()
            }
            schemes[FLOAT] = None
            rest = {name: values[name] for name in ("date", "read", "multiply", "busy", "disturbed")}
            return cls(
                machine=Machine(**values["machine"]),
                cells=tuple(Cell(**{**cell, "scheme": schemes[cell["scheme"]]}) for cell in values["cells"]),
                overheads=tuple(Overhead(**overhead) for overhead in values["overheads"]),
                skipped=dict(values["skipped"]),
                **rest,
            )
        except HfQuantError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"the kernel table is not complete ({error!r}); {_AGAIN}") from error


def _positive(name: str, value: object, kind: type) -> None:
    allowed = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} must be a finite number above 0, not {value!r}; {_AGAIN}")
