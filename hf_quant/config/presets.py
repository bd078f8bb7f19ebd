"""Presets: the names a user types, as schemes for linears, embeddings and heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hf_quant.config.scheme import ROTATIONS, Scheme, TensorScheme
from hf_quant.errors import UnknownName
from hf_quant.registry import unknown


@dataclass(frozen=True)
class Preset:
    """Schemes of a preset for each kind of module.

    An embedding's scale per row is, for a head tied to it, the scale per output channel: `embedding.weight`
    and `head.weight` are equal so that tied modules can share one set of codes.
    """

    linear: Scheme
    embedding: Scheme
    head: Scheme
    summary: str

    def scheme_for(self, kind: str, width: int) -> Scheme:
        """The scheme for a module of a kind (``"linear"``, ``"embedding"``, ``"head"`` or ``"filters"``) and width.

        Filters of convolutions in groups, which are few numbers, get 8 bits where linears get fewer. A rotation whose
        blocks do not divide the width gives way to the largest smaller one that does, or to none.
        """
        if kind == "filters":
            input = self.linear.input
            weight = self.embedding.weight
            scheme = Scheme(weight, self.head.input if input is not None and input.granularity == "group" else input)
            return rotated(scheme, 0, width)
        scheme = {"linear": self.linear, "embedding": self.embedding, "head": self.head}[kind]
        return rotated(scheme, scheme.weight.rotation or 0, width)


def rotated(scheme: Scheme, most: int, width: int) -> Scheme:
    """`scheme` with weights rotated in the largest blocks of at most `most` numbers that divide `width`, if any do."""
    fitting = [size for size in ROTATIONS if size <= most and width % size == 0]
    rotation = max(fitting, default=None) if scheme.weight.has_scales else None
    if rotation == scheme.weight.rotation:
        return scheme
    return replace(scheme, weight=replace(scheme.weight, rotation=rotation))


# Rotated, which spreads the outliers of language models: docs/measurements.md has what W8A8 loses without it.
_PER_CHANNEL_8 = TensorScheme(bits=8, rotation=64)
_PER_CHANNEL_16 = TensorScheme(bits=16)
_GROUPS_4 = TensorScheme(bits=4, symmetric=False, granularity="group")
# Asymmetric, since the outliers of a token mostly lie on one side: the step is up to half as wide, at no cost where
# kernels take unsigned activations anyway.
_PER_TOKEN_8 = TensorScheme(bits=8, symmetric=False, granularity="token", dynamic=True)
# An outlier coarsens its own group only; kernels for weights in groups scale group by group anyway.
_PER_GROUP_8 = TensorScheme(bits=8, granularity="group", dynamic=True)
# One grid for all tokens, from calibration; weights and inputs as they are, for the fastest kernels.
_STATIC_8 = TensorScheme(bits=8, symmetric=False, granularity="tensor")
_PER_TOKEN_16 = TensorScheme(bits=16, granularity="token", dynamic=True)


def _stored(format: str, bits: int, summary: str) -> Preset:
    scheme = Scheme(TensorScheme(format=format, bits=bits))
    return Preset(scheme, scheme, scheme, summary)


PRESETS: dict[str, Preset] = {
    "fp32": _stored("float", 32, "32-bit floats"),
    "fp16": _stored("float", 16, "16-bit IEEE floats, computed in float16"),
    "bf16": _stored("bfloat", 16, "bfloat16, computed in bfloat16"),
    "int16": Preset(
        Scheme(_PER_CHANNEL_16, _PER_TOKEN_16),
        Scheme(_PER_CHANNEL_16),
        Scheme(_PER_CHANNEL_16, _PER_TOKEN_16),
        "W16A16: weights per channel, activations per token",
    ),
    "int8": Preset(
        Scheme(_PER_CHANNEL_8, _PER_TOKEN_8),
        Scheme(_PER_CHANNEL_8),
        Scheme(_PER_CHANNEL_8, _PER_TOKEN_8),
        "W8A8: symmetric weights per channel, asymmetric activations per token (dynamic), both rotated in blocks",
    ),
    "int8-static": Preset(
        Scheme(TensorScheme(bits=8), _STATIC_8),
        Scheme(TensorScheme(bits=8)),
        Scheme(TensorScheme(bits=8), _PER_TOKEN_8),
        "W8A8 with one grid per input for all tokens, from calibration data; heads as in int8, not rotated",
    ),
    "w8a16": Preset(
        Scheme(_PER_CHANNEL_8),
        Scheme(_PER_CHANNEL_8),
        Scheme(_PER_CHANNEL_8),
        "weight-only INT8, rotated in blocks: float activations",
    ),
    "int4": Preset(
        Scheme(_GROUPS_4, _PER_GROUP_8),
        Scheme(_PER_CHANNEL_8),
        Scheme(_PER_CHANNEL_8, _PER_TOKEN_8),
        "W4A8: asymmetric weights and symmetric activations in groups of 128 (64, 32); embeddings and heads INT8",
    ),
    "w4a16": Preset(
        Scheme(_GROUPS_4),
        Scheme(_PER_CHANNEL_8),
        Scheme(_PER_CHANNEL_8),
        "weight-only INT4 in groups; embeddings and heads INT8",
    ),
}


def get_preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        UnknownName: With the known names.
    """
    if name not in PRESETS:
        raise UnknownName(unknown("preset", name, PRESETS))
    return PRESETS[name]
