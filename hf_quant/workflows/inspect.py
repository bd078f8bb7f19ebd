"""`hf_quant.inspect`: every module that holds weights, its scheme, kernel and bytes, and why anything stayed float."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from hf_quant.config.name_ranges import in_short
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule
from hf_quant.quantizing.left_float import LeftFloat


@dataclass(frozen=True)
class ModuleRow:
    """One module that holds weights: its scheme, kernel and size.

    Args:
        module: Name of the module.
        scheme: Short name of the scheme, such as ``"W4A8 g128 asym"``, or the dtype of a float module.
        kernel: What computes the module; ``""`` for float modules.
        parameters: Number of elements of its weights and biases; what is shared with an earlier module counts 0.
        bytes: Bytes of its tensors in a checkpoint; what is shared with an earlier module counts 0.
        note: Why the module is float, or which module it shares its weight with.
    """

    module: str
    scheme: str
    kernel: str
    parameters: int
    bytes: int
    note: str


@dataclass(frozen=True)
class InspectReport:
    """Report of a model's modules, in its order; ``str(report)`` is a table with repeated layers on one line."""

    rows: tuple[ModuleRow, ...]
    left_float: str = ""
    """How much stays float though nobody asked for it, and why; empty where that is little."""

    @property
    def bytes(self) -> int:
        """Bytes of all tensors in a checkpoint."""
        return _bytes(self.rows)

    @property
    def parameters(self) -> int:
        """Number of elements of weights and biases, tied ones counted once."""
        return sum(row.parameters for row in self.rows)

    @property
    def float_modules(self) -> dict[str, str]:
        """Names of modules that stayed float, to the reason."""
        return {row.module: row.note for row in self.rows if not row.kernel and row.note}

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-ready dict."""
        rows = [asdict(row) for row in self.rows]
        return {
            "parameters": self.parameters,
            "bytes": self.bytes,
            "left_float": self.left_float,
            "rows": rows,
        }

    def __str__(self) -> str:
        header = ("module", "count", "scheme", "kernel", "bytes", "note")
        lines = [header, *_condensed(self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        numeric = (1, 4)
        rendered = [
            "  ".join(
                cell.rjust(width) if column in numeric else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rendered.insert(1, "-" * max(map(len, rendered)))
        share = self.bytes / max(1, 4 * self.parameters)
        rendered.append(
            f"{self.parameters:,} parameters in {self.bytes:,} bytes: {share:.1%} of float32, "
            f"{8 * self.bytes / max(1, self.parameters):.2f} bits per parameter"
        )
        if self.left_float:
            rendered.append(self.left_float)
        return "\n".join(rendered)


def inspect(model: nn.Module) -> InspectReport:
    """List each module of a model that holds weights: its scheme, kernel and bytes, and why it stayed float.

    Args:
        model: Torch model, quantized or not; one from ``from_pretrained`` or `quantize` tells why modules stayed float.
    """
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    reasons: dict[str, str] = getattr(config, "kept_float", None) or {}
    rows = []
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            rows.append(_row(name, module, reasons.get(name, "" if reasons else "the model is not quantized"), owners))
    return InspectReport(tuple(rows), str(LeftFloat.of(model, reasons)) if reasons else "")


def _row(name: str, module: nn.Module, reason: str, owners: dict[int, str]) -> ModuleRow:
    weight = getattr(module, "weight", None)
    own = [p for p in module.parameters(recurse=False) if owners.setdefault(id(p), name) == name]
    owner = owners.get(id(weight), name)
    tied = owner != name
    if isinstance(module, QuantizedModule):
        facts = {} if tied else module.saved_tensors()
        size = sum(_numel(shape) * dtype.itemsize for shape, dtype in facts.values())
        count = 0 if tied else module.spec.in_features * module.spec.out_features
        others = [p for p in own if p is not weight]
        size += sum(p.numel() * p.element_size() for p in others)
        count += sum(p.numel() for p in others)
        kernel = (
            module.kernel or "gather" if isinstance(module, nn.Embedding) else module.kernel or "chosen at first use"
        )
        note = f"shares the codes of {owner}" if tied else ""
        return ModuleRow(name, str(module.spec.scheme), kernel, count, size, note)
    size = sum(p.numel() * p.element_size() for p in own)
    count = sum(p.numel() for p in own)
    if isinstance(module, StoredModule):
        note = f"shares the weight of {owner}" if tied else ""
        return ModuleRow(name, str(module.scheme), "torch", count, size, note)
    dtype = str(next(module.parameters(recurse=False)).dtype).removeprefix("torch.")
    return ModuleRow(name, dtype, "", count, size, f"{reason}; tied to {owner}" if tied else reason)


def _condensed(rows: Iterable[ModuleRow]) -> list[tuple[str, ...]]:
    merged: dict[tuple[str, str, str, str], list[ModuleRow]] = {}
    for row in rows:
        kind, note = (re.sub(r"\.\d+(?=\.|$)", ".*", text) for text in (row.module, row.note))
        merged.setdefault((kind, row.scheme, row.kernel, note), []).append(row)
    return [
        (*in_short(row.module for row in alike), str(len(alike)), scheme, kernel, f"{_bytes(alike):,}", note)
        for (_, scheme, kernel, note), alike in merged.items()
    ]


def _bytes(rows: Iterable[ModuleRow]) -> int:
    return sum(row.bytes for row in rows)


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
