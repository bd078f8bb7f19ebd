"""What vLLM and SGLang compute with a checkpoint in the format of compressed-tensors."""

from __future__ import annotations

from dataclasses import replace

from hf_quant.config.scheme import Scheme
from hf_quant.portability import rules
from hf_quant.portability.compressed_tensors import WRITTEN
from hf_quant.portability.facts import Facts, Part, Rule

_GROUPS = (128, 64, 32)


def _has_codes(part: Part) -> bool:
    return rules.has_codes(part) and part.made_as == "linear"


def _in_known_groups(part: Part) -> Scheme | None:
    size = next((size for size in _GROUPS if part.width % size == 0), None)
    return None if size is None else Scheme(replace(part.scheme.weight, granularity="group", group_size=size))


def _is_weight_only(part: Part) -> bool:
    return _has_codes(part) and part.scheme.input is None


def _has_inputs(part: Part) -> bool:
    return _has_codes(part) and part.scheme.input is not None


_SERVED: tuple[Rule, ...] = (
    *WRITTEN,
    Rule(
        "rotation",
        lambda part: _has_codes(part) and rules.is_rotated(part),
        "refused",
        "its rotations are other ones, and run on GPUs only",
        rules.unrotated,
        "rotation=0",
    ),
    Rule(
        "bits",
        lambda part: _is_weight_only(part) and part.scheme.weight.bits not in (4, 8),
        "refused",
        "kernels for float inputs have 4 or 8 bits",
        lambda part: rules.with_bits(4 if part.scheme.weight.bits <= 4 else 8)(part),
        "4 or 8 bits",
    ),
    Rule(
        "groups",
        lambda part: _is_weight_only(part) and rules.in_groups(part) and part.scheme.weight.group_size not in _GROUPS,
        "refused",
        "kernels for float inputs have groups of 32, 64 or 128",
        _in_known_groups,
        "groups of 32, 64 or 128",
    ),
    Rule(
        "inputs",
        lambda part: _has_inputs(part) and (part.scheme.weight.bits != 8 or rules.in_groups(part)),
        "refused",
        "quantized inputs go with 8-bit weights per channel",
        rules.weight_only,
        "weights only",
    ),
    Rule(
        "asymmetric-inputs",
        lambda part: _has_inputs(part) and rules.is_asymmetric(part),
        "refused",
        "quantized inputs go with symmetric weights",
        rules.symmetric,
        "symmetric weights",
    ),
    Rule(
        "signed-scales",
        lambda part: _is_weight_only(part) and rules.has_signed_scales(part),
        "exact",
        "scales may be negative, which was run on the CPU only",
    ),
)

FACTS = Facts(
    "vLLM",
    (
        Rule(
            "siblings",
            lambda part: _has_codes(part) and rules.differs_from_siblings(part),
            "refused",
            "query, key and value, or gate and up, are computed as one, with one scheme",
            rules.siblings_scheme,
            "one scheme for all of them",
        ),
        *_SERVED,
        Rule(
            "8-bit-weights",
            lambda part: _is_weight_only(part) and part.scheme.weight.bits == 8,
            "exact",
            "on GPUs: the CPU backend has no 8-bit weights with float inputs",
        ),
    ),
    fuses=True,
)
SGLANG = replace(FACTS, summary="SGLang")
