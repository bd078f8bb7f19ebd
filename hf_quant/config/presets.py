"""Presets: the names a user types, as schemes for linears, embeddings and heads."""

from __future__ import annotations

from dataclasses import dataclass

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import UnknownName
from hf_quant.registry import unknown


@dataclass(frozen=True)
class Preset:
    """What a preset does to each kind of module.

    An embedding's scale per row is, for a head tied to it, the scale per output channel: `embedding.weight`
    and `head.weight` are equal so that tied modules can share one set of codes.
    """

    linear: Scheme
    embedding: Scheme
    head: Scheme
    summary: str

    def for_kind(self, kind: str) -> Scheme:
        """The scheme for a module kind: ``"linear"``, ``"embedding"`` or ``"head"``."""
        return {"linear": self.linear, "embedding": self.embedding, "head": self.head}[kind]


_PER_CHANNEL_8 = TensorScheme(bits=8)
_PER_CHANNEL_16 = TensorScheme(bits=16)
_GROUPS_4 = TensorScheme(bits=4, symmetric=False, granularity="group")
# Asymmetric, since the outliers of a token mostly lie on one side: the step is up to half as wide, at no cost where
# kernels take unsigned activations anyway.
_PER_TOKEN_8 = TensorScheme(bits=8, symmetric=False, granularity="token", dynamic=True)
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
        "W8A8: symmetric weights per channel, asymmetric activations per token (dynamic)",
    ),
    "w8a16": Preset(
        Scheme(_PER_CHANNEL_8),
        Scheme(_PER_CHANNEL_8),
        Scheme(_PER_CHANNEL_8),
        "weight-only INT8: float activations",
    ),
    "int4": Preset(
        Scheme(_GROUPS_4, _PER_TOKEN_8),
        Scheme(_PER_CHANNEL_8),
        Scheme(_PER_CHANNEL_8, _PER_TOKEN_8),
        "W4A8: asymmetric weights in groups of 128 (64, 32), activations as int8; embeddings and heads INT8",
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
