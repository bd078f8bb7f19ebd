"""What rules of several targets ask of a module, and the schemes they put in the place of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.formats import even_format
from hf_quant.portability.facts import Part, Rule

_PER_TOKEN = TensorScheme(bits=8, symmetric=False, granularity="token", dynamic=True)


def has_codes(part: Part) -> bool:
    """Whether numbers are codes on an even grid."""
    return part.scheme.weight.facts.is_even


def has_codebook(part: Part) -> bool:
    """Whether numbers are codes of levels that are no even grid."""
    return part.scheme.weight.has_scales and not has_codes(part)


def is_stored_float(part: Part) -> bool:
    """Whether numbers are floats of another dtype."""
    return not part.scheme.weight.has_scales


def bits_of(part: Part) -> int | None:
    """Bits of a code on an even grid; None where there is none."""
    return part.scheme.weight.bits if has_codes(part) else None


def is_rotated(part: Part) -> bool:
    """Whether rows are rotated."""
    return part.scheme.weight.rotation is not None


def is_asymmetric(part: Part) -> bool:
    """Whether weights have zero points."""
    return not part.scheme.weight.symmetric


def has_signed_scales(part: Part) -> bool:
    """Whether scales of the weight may be negative."""
    return has_codes(part) and even_format(part.scheme.weight).has_signed_scales


def in_groups(part: Part) -> bool:
    """Whether scales of the weight are those of groups."""
    return part.scheme.weight.granularity == "group"


def is_weight_only(part: Part) -> bool:
    """Whether inputs are floats."""
    return part.scheme.input is None


def inputs(granularity: str, dynamic: bool = True, symmetric: bool | None = None) -> Callable[[Part], bool]:
    """Whether inputs are quantized to 8 bits so."""

    def asked(part: Part) -> bool:
        given = part.scheme.input
        if given is None or given.bits != 8 or (given.granularity, given.dynamic) != (granularity, dynamic):
            return False
        return symmetric is None or given.symmetric == symmetric

    return asked


def is_opened(part: Part) -> bool:
    """Whether it is a part of experts, of a convolution, or of an LSTM or GRU."""
    return part.made_as in ("experts", "convolution", "recurrent")


def has_16_bits(part: Part) -> bool:
    """Whether weights or inputs are integers of 16 bits."""
    given = part.scheme.input
    return bits_of(part) == 16 or (given is not None and given.bits == 16)


def differs_from_siblings(part: Part) -> bool:
    """Whether one of those that it is computed with is float, or the first of them has another scheme."""
    return bool(part.siblings) and siblings_scheme(part) != part.scheme


def unrotated(part: Part) -> Scheme:
    """Without rotation."""
    return replace(part.scheme, weight=replace(part.scheme.weight, rotation=None))


def symmetric(part: Part) -> Scheme:
    """Without zero points of weights."""
    return replace(part.scheme, weight=replace(part.scheme.weight, symmetric=True))


def weight_only(part: Part) -> Scheme:
    """With float inputs."""
    return Scheme(part.scheme.weight)


def per_token(part: Part) -> Scheme:
    """With inputs quantized per token."""
    return Scheme(part.scheme.weight, _PER_TOKEN)


def with_bits(bits: int) -> Callable[[Part], Scheme]:
    """With as many bits of weights."""
    return lambda part: replace(part.scheme, weight=replace(part.scheme.weight, bits=bits))


def per_channel_8(part: Part) -> Scheme:
    """INT8 weights per channel, and inputs as they are, where they fit that."""
    given = part.scheme.input
    fits = given is not None and given.bits == 8 and given.granularity != "group"
    return Scheme(TensorScheme(bits=8), given if fits else None)


def groups_of_4_bits(part: Part) -> Scheme:
    """Symmetric INT4 weights in groups of the size that there is, or of 128, 64 or 32 where that divides the width."""
    size = part.scheme.weight.group_size
    sizes = [size] if size else [each for each in (128, 64, 32) if part.width % each == 0]
    if not sizes:
        return Scheme(TensorScheme(bits=4))
    return Scheme(TensorScheme(bits=4, granularity="group", group_size=sizes[0]))


def siblings_scheme(part: Part) -> Scheme | None:
    """The scheme of the first of those that it is computed with; None where one of them is float."""
    schemes = list(part.siblings.values())
    return None if None in schemes else schemes[0]


def opened(what: str = "experts, convolutions and recurrent layers are not exported as codes") -> Rule:
    """Refusal of what is a part of an opened module."""
    return Rule("opened", is_opened, "refused", what)


def codebook(why: str) -> Rule:
    """Refusal of levels that are no even grid."""
    return Rule("codebook", has_codebook, "refused", why, groups_of_4_bits, "4 bits in groups, on an even grid")


def sixteen_bits(why: str = "no integers of 16 bits") -> Rule:
    """Refusal of weights or inputs of 16 bits."""
    return Rule("16-bits", has_16_bits, "refused", why, per_channel_8, "8 bits")


def embedding_as_floats() -> Rule:
    """Embeddings whose decoded rows are written."""
    return Rule(
        "embedding",
        lambda part: has_codes(part) and part.kind == "embedding",
        "container",
        "written as the floats that the codes stand for",
    )
