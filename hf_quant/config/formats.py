"""Number formats: the literal table of what each can do, and where its numerics are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FormatFacts:
    """What may be asked about a format without its numerics.

    Args:
        bits: Bits per number that the format can have.
        path: ``"package.module:class"`` of its numerics, imported on first use (``formats.format_of``).
        label: Short name of schemes, such as ``W8A8``; ``{bits}`` and ``{input}`` stand for bits of weight and input.
        words: Name of the format in a sentence, such as ``INT8``; ``{bits}`` stands for bits.
        has_scales: Whether numbers are codes with scales, a ``formats.base.Format``; otherwise they are floats, and
            nothing of what follows holds.
        is_even: Whether numbers are ``(code - zero_point) * scale``, so that kernels can multiply with the codes.
        may_be_asymmetric: Whether there may be a zero point with each scale.
        may_be_input: Whether inputs can be rounded to it, for each call or on a grid that calibration fixes.
    """

    bits: tuple[int, ...]
    path: str
    label: str
    words: str
    has_scales: bool = True
    is_even: bool = False
    may_be_asymmetric: bool = False
    may_be_input: bool = False


_AFFINE, _FLOATING = "hf_quant.formats.affine:AffineFormat", "hf_quant.formats.floating:FloatFormat"

FORMATS: dict[str, FormatFacts] = {
    "int": FormatFacts(
        (2, 3, 4, 5, 6, 7, 8, 16),
        _AFFINE,
        "W{bits}A{input}",
        "INT{bits}",
        is_even=True,
        may_be_asymmetric=True,
        may_be_input=True,
    ),
    "nf4": FormatFacts((4,), "hf_quant.formats.nf4:NF4", "NF4", "NF4"),
    "float": FormatFacts((16, 32), _FLOATING, "FP{bits}", "float{bits}", has_scales=False),
    "bfloat": FormatFacts((16,), _FLOATING, "BF{bits}", "bfloat{bits}", has_scales=False),
}
"""Name of a format, as schemes have it, to its facts. How to add one: docs/adding_a_format.md."""
