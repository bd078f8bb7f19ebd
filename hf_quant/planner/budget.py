"""Budgets as people write them: sizes, bits per weight, times, and what may be lost."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from decimal import ROUND_CEILING, Decimal

from hf_quant.errors import ConfigError

SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
"""Bytes in each unit of size; case does not matter when a budget is read."""

FORMS = '"350MB", "350MiB", "1.2GB", "4.5bpw", "25%", "20ms/token", "20ms", "drop<=1%", or several: "350MB,20ms"'

_SIZES = {unit.lower(): unit for unit in SIZE_UNITS}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)\s*"
_PATTERNS = {
    "bytes": re.compile(_NUMBER + "(" + "|".join(_SIZES) + ")"),
    "bits_per_weight": re.compile(_NUMBER + "bpw"),
    "share": re.compile(_NUMBER + "%"),
    "milliseconds": re.compile(_NUMBER + r"ms(?:\s*/\s*token)?"),
    "drop": re.compile(r"drop\s*(?:<=|≤)\s*" + _NUMBER + "(%?)"),
}


@dataclass(frozen=True)
class Budget:
    """Limits that a plan has to keep: every limit that is given.

    Without `drop` the least loss within the limits is wanted; with it, the smallest model that loses no more.

    Args:
        bytes: Most bytes of the whole model on disk.
        bits_per_weight: Most bits on average over the weights that can be quantized, scales and zero points counted.
        share: Largest size on disk as a fraction of the float model's: 0.25 is a quarter.
        milliseconds: Most milliseconds of one token, or of the pass that the options were timed for.
        drop: Largest increase of the loss. 1 % is 0.01: in nats, a perplexity 1 % higher; in a share of right
            answers, one percentage point.
        size_unit: The unit in which `bytes` is shown.

    Raises:
        ConfigError: No limit is given, or one is not a number above 0 (`drop` may be 0).
    """

    bytes: int | None = None
    bits_per_weight: float | None = None
    share: float | None = None
    milliseconds: float | None = None
    drop: float | None = None
    size_unit: str = "MB"

    def __post_init__(self) -> None:
        given = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "size_unit"}
        if all(value is None for value in given.values()):
            raise ConfigError(f"a budget needs a limit: {FORMS}")
        for name, value in given.items():
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and name != "drop"):
                raise ConfigError(f"a budget's {name} must be a finite number above 0, not {value!r}")
        if self.bytes is not None and not isinstance(self.bytes, int):
            raise ConfigError(f"a budget's bytes are an integer, not {self.bytes!r}; Budget.of rounds down")
        if self.size_unit not in SIZE_UNITS:
            raise ConfigError(f"size_unit is one of {', '.join(SIZE_UNITS)}, not {self.size_unit!r}")

    @classmethod
    def of(cls, value: Budget | str | int | float) -> Budget:
        """A budget from what a user gives: one of the forms, or a number of bytes.

        Raises:
            ConfigError: The value has none of the forms (they are listed), or two limits of one kind.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, str):
            return _parsed(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 1:
            raise ConfigError(f"{value!r} is no budget; give a number of bytes, or {FORMS}")
        return cls(bytes=math.floor(value))

    def __str__(self) -> str:
        return ",".join(self.shown(name, getattr(self, name)) for name in _PATTERNS if getattr(self, name) is not None)

    def shown(self, limit: str, value: float, digits: int | None = None) -> str:
        """A value of one of the limits, in the form and unit in which it is written.

        Args:
            limit: Name of the limit: ``"bytes"``, ``"bits_per_weight"``, ``"share"``, ``"milliseconds"`` or ``"drop"``.
            value: Value of the limit, as the field of that name holds it.
            digits: Significant digits, rounded up so that what is shown is enough; None for all.
        """
        number = Decimal(repr(value))
        if limit == "bytes":
            number /= SIZE_UNITS[self.size_unit]
        elif limit in ("share", "drop"):
            number *= 100
        if digits is not None and number > 0:
            number = number.quantize(Decimal(1).scaleb(number.adjusted() - digits + 1), rounding=ROUND_CEILING)
        text = f"{number:f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        forms = {
            "bytes": f"{{}}{self.size_unit}",
            "bits_per_weight": "{}bpw",
            "share": "{}%",
            "milliseconds": "{}ms",
            "drop": "drop<={}%",
        }
        return forms[limit].format(text)

    def only(self, limit: str, value: float) -> Budget:
        """A budget of one limit, shown in this one's unit."""
        return replace(Budget(**{limit: value}), size_unit=self.size_unit)  # type: ignore[arg-type]


def _parsed(text: str) -> Budget:
    found: dict[str, float] = {}
    unit = "MB"
    for part in text.split(","):
        written = part.strip().lower()
        for limit, pattern in _PATTERNS.items():
            match = pattern.fullmatch(written)
            if match is None:
                continue
            if limit in found:
                raise ConfigError(f"the budget {text!r} has two limits of one kind, {limit}; keep the smaller")
            number = Decimal(match[1])
            if limit == "bytes":
                unit = _SIZES[match[2]]
                # A count of bytes written in MiB need not be a short decimal: a thousandth makes up for its last digit.
                found[limit] = math.floor(number * SIZE_UNITS[unit] + Decimal("0.001"))
            elif limit == "share" or (limit == "drop" and match[2]):
                found[limit] = float(number / 100)
            else:
                found[limit] = float(number)
            break
        else:
            raise ConfigError(f"{part.strip()!r} is no budget; the forms are {FORMS}; bytes are 350000000B")
    return Budget(**found, size_unit=unit)  # type: ignore[arg-type]
