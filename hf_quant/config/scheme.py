"""How one module is quantized: the format of its weight and of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hf_quant.config.formats import FORMATS, FormatFacts
from hf_quant.errors import ConfigError
from hf_quant.registry import unknown

ROTATIONS = (16, 32, 64, 128, 256)
"""Sizes of the blocks that weights and inputs can be rotated in."""

GRANULARITIES = ("tensor", "channel", "group", "token")
AUTO_GROUP_SIZES = (128, 64, 32)
"""Group sizes that a preset tries, largest first."""
SCALE_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TensorScheme:
    """How the numbers of one tensor are stored.

    Args:
        format: A name in `config.formats.FORMATS`: ``"int"`` (even grid), ``"nf4"`` (levels of a normal distribution),
            ``"float"`` (IEEE) or ``"bfloat"``.
        bits: Bits per number: 2 to 8 or 16 for ``int``, 4 for ``nf4``, 16 or 32 for ``float``, 16 for ``bfloat``.
        symmetric: Whether zero points are 0. Otherwise, for ``int`` only, a zero point is stored with each scale.
        granularity: What shares one scale: the whole ``"tensor"``, an output ``"channel"`` (a row of an
            embedding), a ``"group"`` of inputs within a channel or a token, or, for inputs, a ``"token"``.
        group_size: Numbers that share a scale when ``granularity="group"``. None lets the plan take the
            largest of 128, 64, 32 that divides the width of the module; inputs have the groups of their weight.
        dynamic: Inputs only: scales are computed from each input. False means calibrated, static scales.
        rotation: Weights only: rows are rotated in blocks of this many numbers (a power of two) by a Hadamard matrix
            before they are quantized, and inputs before they are, which spreads outliers. None: no rotation.
        scale_dtype: Weights only: what scales are stored in, ``"float32"``, ``"bfloat16"`` or ``"float16"``. None:
            bfloat16 in groups of up to 8 bits, which are many, float32 otherwise.

    Raises:
        ConfigError: A value is out of range, or two values contradict each other.
    """

    format: str = "int"
    bits: int = 8
    symmetric: bool = True
    granularity: str = "channel"
    group_size: int | None = None
    dynamic: bool = False
    rotation: int | None = None
    scale_dtype: str | None = None

    def __post_init__(self) -> None:
        _check_types(self, {"format": str, "bits": int, "symmetric": bool, "granularity": str, "dynamic": bool})
        if self.format not in FORMATS:
            raise ConfigError(unknown("format", self.format, FORMATS))
        if self.bits not in self.facts.bits:
            raise ConfigError(f"format {self.format!r} has no {self.bits}-bit variant; use one of {self.facts.bits}")
        if self.granularity not in GRANULARITIES:
            raise ConfigError(unknown("granularity", self.granularity, GRANULARITIES))
        if self.group_size is not None:
            if self.granularity != "group":
                raise ConfigError(f'group_size={self.group_size} needs granularity="group", not {self.granularity!r}')
            if isinstance(self.group_size, bool) or not isinstance(self.group_size, int) or self.group_size < 1:
                raise ConfigError(f"group_size must be a positive integer or None, not {self.group_size!r}")
        if self.rotation is not None and (
            isinstance(self.rotation, bool)
            or not isinstance(self.rotation, int)
            or self.rotation not in ROTATIONS
            or not self.has_scales
        ):
            raise ConfigError(f"rotation is None or, beside scales, one of {ROTATIONS}, not {self.rotation!r}")
        if not self.has_scales and (self.granularity == "group" or not self.symmetric or self.scale_dtype is not None):
            raise ConfigError(
                f"format {self.format!r} has no scales: leave symmetric, granularity and scale_dtype as they are"
            )
        if not self.symmetric and not self.facts.may_be_asymmetric:
            asymmetric = [name for name, facts in FORMATS.items() if facts.may_be_asymmetric]
            raise ConfigError(
                f"format {self.format!r} has no zero points: leave symmetric true, or take one of {asymmetric}"
            )
        if self.scale_dtype is not None and self.scale_dtype not in SCALE_DTYPES:
            raise ConfigError(unknown("scale_dtype", self.scale_dtype, SCALE_DTYPES))

    @property
    def facts(self) -> FormatFacts:
        """What the format can do, from the table of formats."""
        return FORMATS[self.format]

    @property
    def has_scales(self) -> bool:
        """Whether values are codes with a scale, rather than floats as they are."""
        return self.facts.has_scales

    def to_dict(self) -> dict[str, Any]:
        """Fields that differ from the defaults, plus format and bits."""
        defaults = {field.name: field.default for field in fields(self)}
        return {k: v for k, v in asdict(self).items() if k in ("format", "bits") or v != defaults[k]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TensorScheme:
        """Read a scheme that `to_dict` wrote; rejects unknown keys."""
        return cls(**_checked_mapping(cls, values))


@dataclass(frozen=True)
class Scheme:
    """The formats of a module's weight and input; ``input=None`` leaves activations in float.

    Raises:
        ConfigError: A weight given per token or as dynamic, or an input per channel, or in groups that are not those of
            the weight.
    """

    weight: TensorScheme
    input: TensorScheme | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.weight, TensorScheme) or not isinstance(self.input, TensorScheme | None):
            raise ConfigError("Scheme(weight, input) takes TensorScheme objects; input may be None")
        if self.weight.granularity == "token" or self.weight.dynamic:
            raise ConfigError('a weight cannot be per "token" or dynamic: it is quantized once, at load')
        if self.input is None:
            return
        if not (self.weight.facts.is_even and self.input.facts.may_be_input):
            inputs, weights = (
                " or ".join(name for name, facts in FORMATS.items() if getattr(facts, fact))
                for fact in ("may_be_input", "is_even")
            )
            raise ConfigError(
                f"input is None (float activations), or {inputs} beside a weight of {weights}, whose codes can be "
                f"multiplied; not {self.input.format} beside {self.weight.format}"
            )
        if self.input.granularity not in ("token", "tensor", "group"):
            raise ConfigError(f'inputs are quantized per "token", "tensor" or "group", not {self.input.granularity!r}')
        if self.input.bits not in (8, 16):
            raise ConfigError(f"inputs are quantized to 8 or 16 bits, not {self.input.bits}")
        if self.input.rotation is not None:
            raise ConfigError("rotation belongs to the weight: inputs are rotated to match it")
        if self.input.scale_dtype is not None:
            raise ConfigError("scale_dtype belongs to the weight: scales of inputs are float32")
        if self.input.granularity in ("token", "group") and not self.input.dynamic:
            raise ConfigError('static inputs have one scale: use granularity="tensor", or dynamic=True')
        if self.input.granularity == "group":
            if not self.input.symmetric or self.input.bits != 8:
                raise ConfigError("inputs in groups are symmetric, of 8 bits: one scale a group says enough")
            if self.weight.granularity != "group" or self.input.group_size != self.weight.group_size:
                raise ConfigError(
                    f"inputs in groups of {self.input.group_size} need weights in the same groups, "
                    f"not {self.weight.granularity} {self.weight.group_size or ''}; leave both group sizes out to match"
                )

    def __str__(self) -> str:
        weight = self.weight
        text = weight.facts.label.format(bits=weight.bits, input=16 if self.input is None else self.input.bits)
        if not weight.has_scales:
            return text
        if weight.granularity == "group":
            text += f" g{weight.group_size or 'auto'}"
        elif weight.granularity == "tensor":
            text += " per tensor"
        text += "" if weight.symmetric else " asym"
        text += f" rot{weight.rotation}" if weight.rotation else ""
        return text + (f" {weight.scale_dtype} scales" if weight.scale_dtype else "")

    def to_dict(self) -> dict[str, Any]:
        """The scheme as JSON-ready values; inverse of `from_dict`."""
        return {"weight": self.weight.to_dict(), "input": None if self.input is None else self.input.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scheme:
        """Read a scheme that `to_dict` wrote; rejects unknown keys."""
        values = _checked_mapping(cls, values)
        for key in ("weight", "input"):
            if values.get(key) is not None and not isinstance(values[key], TensorScheme):
                values[key] = TensorScheme.from_dict(values[key])
        return cls(**values)


def _checked_mapping(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{cls.__name__} is written as an object with keys, not as {values!r}")
    known = [field.name for field in fields(cls)]
    for key in values:
        if key not in known:
            raise ConfigError(unknown(f"{cls.__name__} key", key, known))
    if cls is Scheme and "weight" not in values:
        raise ConfigError('a Scheme needs the key "weight"')
    return dict(values)


def _check_types(config: object, types: dict[str, type]) -> None:
    for name, expected in types.items():
        value = getattr(config, name)
        # bool is an int in Python; bits=True would otherwise pass for one bit.
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise ConfigError(f"{type(config).__name__}.{name} must be {expected.__name__}, not {value!r}")
