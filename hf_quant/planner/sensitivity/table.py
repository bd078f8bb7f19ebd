"""Predicted losses, module by scheme."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError, PlanError
from hf_quant.registry import unknown
from hf_quant.reporting.json_file import write_text

_SCHEMA = 1


@dataclass(frozen=True)
class LossTable:
    """Predicted rise of the model's loss when one module alone is quantized, for each module and scheme.

    Args:
        measure: Name of the measure, one of `MEASURES`.
        unit: Unit of the losses, in words.
        modules: Names of modules, in the order of the model.
        schemes: Schemes as given, not yet fitted to a module's width.
        losses: Predicted losses ``[module][scheme]``; None where a scheme does not fit.
        fingerprint: Fingerprint of model and data; empty if none was given.

    Raises:
        PlanError: A loss is NaN or infinite (the module is named), or rows and names do not match.
    """

    measure: str
    unit: str
    modules: tuple[str, ...]
    schemes: tuple[Scheme, ...]
    losses: tuple[tuple[float | None, ...], ...]
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if len(self.losses) != len(self.modules) or any(len(row) != len(self.schemes) for row in self.losses):
            raise PlanError("a table of losses has a row for each module and a column for each scheme")
        for name, row in zip(self.modules, self.losses, strict=True):
            for scheme, loss in zip(self.schemes, row, strict=True):
                if loss is not None and not math.isfinite(loss):
                    raise PlanError(
                        f"the sensitivity of {name} to {scheme} is {loss}: look for NaN in its weights and in what the "
                        "model makes of the data, or keep it float"
                    )

    def loss(self, module: str, scheme: Scheme) -> float | None:
        """Predicted loss of one module under one of `schemes`; None where the scheme does not fit.

        Raises:
            PlanError: There is no such module or scheme.
        """
        if module not in self.modules:
            raise PlanError(unknown("module in the table of losses", module, self.modules))
        if scheme not in self.schemes:
            raise PlanError(f"{scheme} was not measured; {', '.join(map(str, self.schemes))} were")
        return self.losses[self.modules.index(module)][self.schemes.index(scheme)]

    def to_dict(self) -> dict[str, Any]:
        """The table as a JSON-ready dict."""
        return {
            "schema": _SCHEMA,
            "measure": self.measure,
            "unit": self.unit,
            "fingerprint": self.fingerprint,
            "schemes": [scheme.to_dict() for scheme in self.schemes],
            "losses": dict(zip(self.modules, map(list, self.losses), strict=True)),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LossTable:
        """A table from what `to_dict` gives.

        Raises:
            ConfigError: The values are no table of losses, or of a newer version.
        """
        try:
            if values["schema"] > _SCHEMA:
                raise ConfigError("the table of losses is of a newer version: pip install -U hf-quant")
            rows = values["losses"]
            return cls(
                str(values["measure"]),
                str(values["unit"]),
                tuple(map(str, rows)),
                tuple(map(Scheme.from_dict, values["schemes"])),
                tuple(tuple(None if loss is None else float(loss) for loss in row) for row in rows.values()),
                str(values["fingerprint"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, PlanError) as error:
            raise ConfigError(f"this is no table of losses: {error!r}") from error


def write_losses(table: LossTable, file: Path) -> None:
    """Write a table of losses to a file, as JSON.

    Raises:
        SaveError: The file cannot be written.
    """
    write_text(file, json.dumps(table.to_dict(), indent=1) + "\n")


def read_losses(file: Path, fingerprint: str) -> LossTable:
    """Read a table of losses from a file.

    Raises:
        ConfigError: The file cannot be read, or its table is of another model, other data or other schemes.
    """
    try:
        table = LossTable.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(f"{file} cannot be read as a table of losses: {error}") from error
    if table.fingerprint != fingerprint:
        raise ConfigError(
            f"{file} was measured on another model, other data or for other schemes: give another file, or delete it"
        )
    return table
