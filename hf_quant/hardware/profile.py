"""What a plan has to know of the machine that a model will run on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hf_quant.errors import ConfigError

KINDS = ("published", "measured")


@dataclass(frozen=True)
class Figure:
    """One number about a machine, with where it is from.

    Args:
        value: Number of bytes, bytes per second, or operations per second (a multiplication and an addition are two).
        kind: Origin: ``"published"`` by a maker, or computed from what one published; ``"measured"`` on the machine.
        source: Who published it and for which part, or what measured it.

    Raises:
        ConfigError: The value is not a finite number above 0, the kind is not one of the two, or there is no source.
    """

    value: float
    kind: str
    source: str

    def __post_init__(self) -> None:
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not is_number or not math.isfinite(self.value) or self.value <= 0:
            raise ConfigError(f"a figure is a finite number above 0, not {self.value!r}; leave unknown ones None")
        if self.kind not in KINDS:
            raise ConfigError(f"a figure is {' or '.join(KINDS)}, not {self.kind!r}")
        if not isinstance(self.source, str) or not self.source:
            raise ConfigError("a figure needs its source")


@dataclass(frozen=True)
class Profile:
    """A machine, or a class of machines, as plans are made for it.

    Figures that nobody is sure of are None. Names of schemes are those of the presets.

    Args:
        name: Name of the profile, as users give it.
        summary: One line that says which machines the profile stands for.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``: where torch would run it.
        schemes: Presets that the hardware has instructions for, or that save memory there.
        fast: Presets among `schemes` that this package's kernels compute with as codes there, fastest first. Others are
            decoded before a float product, which saves memory but no time.
        preferred: Preset among `schemes` to start from.
        alignment: Input widths, and groups, that integer kernels there need a multiple of.
        per_channel: Whether weights can have scales per channel only, and no groups.
        bandwidth: Bytes per second between memory and processor.
        int8: Operations per second of 8-bit integers, at best.
        fp16: Operations per second of 16-bit floats, accumulated in 32 bits where the maker tells them apart.
        fp32: Operations per second of 32-bit floats.
        memory: Bytes of memory; None where the part is sold with several sizes.

    Raises:
        ConfigError: `fast` or `preferred` names what is not in `schemes`, or the alignment is not a positive integer.
    """

    name: str
    summary: str
    device: str
    schemes: tuple[str, ...]
    fast: tuple[str, ...]
    preferred: str
    alignment: int
    per_channel: bool = False
    bandwidth: Figure | None = None
    int8: Figure | None = None
    fp16: Figure | None = None
    fp32: Figure | None = None
    memory: Figure | None = None

    def __post_init__(self) -> None:
        missing = [name for name in (*self.fast, self.preferred) if name not in self.schemes]
        if missing:
            raise ConfigError(f"profile {self.name!r}: {', '.join(missing)} must be among its schemes")
        if isinstance(self.alignment, bool) or not isinstance(self.alignment, int) or self.alignment < 1:
            raise ConfigError(f"profile {self.name!r}: alignment is a positive integer, not {self.alignment!r}")

    def figures(self) -> dict[str, Figure | None]:
        """Figures of the machine by name; None where one is not known."""
        return {name: getattr(self, name) for name in ("bandwidth", "int8", "fp16", "fp32", "memory")}
