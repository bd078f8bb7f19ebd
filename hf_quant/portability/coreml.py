"""What Core ML takes: decoding of blocks within the model, from iOS 18 and macOS 15 on."""

from __future__ import annotations

from hf_quant.portability import rules
from hf_quant.portability.facts import Facts, Rule

FACTS = Facts(
    "Core ML",
    (
        rules.opened(),
        rules.codebook("blocks are decoded by scales and offsets"),
        rules.sixteen_bits(),
        Rule("floats", rules.is_stored_float, "container", "computed in the precision of the device"),
        Rule(
            "inputs",
            lambda part: rules.has_codes(part) and part.scheme.input is not None,
            "refused",
            "inputs are floats",
            rules.weight_only,
            "weights only",
        ),
        rules.embedding_as_floats(),
        Rule(
            "bits",
            lambda part: rules.bits_of(part) in (2, 3, 5, 6, 7),
            "container",
            "2 and 3 bits are in codes of 4, 5 to 7 in codes of 8",
        ),
        Rule("rotation", rules.is_rotated, "equivalent", "inputs are multiplied with a matrix"),
    ),
)
