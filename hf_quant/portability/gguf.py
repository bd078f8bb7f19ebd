"""What llama.cpp computes with a model in GGUF, whose blocks have 32 numbers."""

from __future__ import annotations

from dataclasses import replace

from hf_quant.config.scheme import Scheme
from hf_quant.portability import rules
from hf_quant.portability.facts import Facts, Part, Rule

_BLOCK = 32


def _per_channel(part: Part) -> Scheme:
    return Scheme(replace(part.scheme.weight, granularity="channel", group_size=None))


FACTS = Facts(
    "llama.cpp",
    (
        rules.opened(),
        rules.codebook("no block of GGUF has these levels"),
        rules.sixteen_bits(),
        Rule("floats", rules.is_stored_float, "exact", ""),
        Rule(
            "rotation",
            lambda part: rules.has_codes(part) and rules.is_rotated(part),
            "refused",
            "llama.cpp does not rotate inputs",
            rules.unrotated,
            "rotation=0",
        ),
        Rule(
            "width",
            lambda part: rules.has_codes(part) and part.width % _BLOCK != 0,
            "refused",
            "rows are whole blocks of 32 numbers",
        ),
        Rule(
            "groups",
            lambda part: (
                rules.has_codes(part)
                and rules.in_groups(part)
                and (part.scheme.weight.group_size or _BLOCK) % _BLOCK != 0
            ),
            "refused",
            "groups are whole blocks of 32 numbers",
            _per_channel,
            "groups of a multiple of 32",
        ),
        Rule(
            "asymmetric",
            lambda part: rules.has_codes(part) and rules.is_asymmetric(part) and 6 <= part.scheme.weight.bits <= 8,
            "refused",
            "blocks of 8 bits have no zero point",
            rules.symmetric,
            "symmetric weights",
        ),
        Rule(
            "inputs",
            lambda part: rules.has_codes(part) and part.scheme.input is not None,
            "container",
            "llama.cpp rounds inputs by a way of its own, to 8 bits in blocks of 32",
        ),
        Rule(
            "bits",
            lambda part: rules.bits_of(part) in (2, 3, 6, 7),
            "container",
            "2 and 3 bits are in blocks of 4, 6 and 7 in blocks of 8",
        ),
        Rule(
            "scales",
            lambda part: rules.has_codes(part) and part.scheme.weight.group_size != _BLOCK,
            "equivalent",
            "scales are repeated for each block, in float16",
        ),
    ),
)
