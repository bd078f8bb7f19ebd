"""What XNNPACK computes with a program of ExecuTorch."""

from __future__ import annotations

from dataclasses import replace

from hf_quant.config.scheme import Scheme
from hf_quant.portability import rules
from hf_quant.portability.facts import Facts, Part, Rule


def _is_matrix(part: Part) -> bool:
    return rules.has_codes(part) and part.kind != "embedding" and not rules.is_opened(part)


def _per_channel(part: Part) -> Scheme:
    return replace(part.scheme, weight=replace(part.scheme.weight, granularity="channel", group_size=None))


FACTS = Facts(
    "ExecuTorch with XNNPACK",
    (
        rules.opened(),
        rules.codebook("XNNPACK has no codebooks"),
        rules.sixteen_bits(),
        Rule("floats", rules.is_stored_float, "container", "computed in float32"),
        Rule(
            "inputs",
            lambda part: _is_matrix(part) and (rules.is_weight_only(part) or not rules.inputs("token")(part)),
            "refused",
            "inputs are quantized per token",
            rules.per_token,
            "inputs per token",
        ),
        Rule(
            "bits",
            lambda part: _is_matrix(part) and part.scheme.weight.bits in (5, 6, 7) and rules.in_groups(part),
            "refused",
            "groups have up to 4 bits",
            lambda part: rules.with_bits(4)(part),
            "4 bits",
        ),
        Rule(
            "groups",
            lambda part: _is_matrix(part) and part.scheme.weight.bits == 8 and rules.in_groups(part),
            "refused",
            "8 bits have one scale for each channel",
            _per_channel,
            "8 bits per channel",
        ),
        Rule(
            "group-size",
            lambda part: _is_matrix(part) and rules.in_groups(part) and (part.scheme.weight.group_size or 32) % 32 != 0,
            "refused",
            "groups have a multiple of 32 numbers",
            lambda part: replace(rules.groups_of_4_bits(_without_size(part)), input=part.scheme.input),
            "groups of a multiple of 32",
        ),
        Rule(
            "scales",
            lambda part: (
                _is_matrix(part) and rules.in_groups(part) and part.scheme.weight.scale_dtype not in (None, "bfloat16")
            ),
            "refused",
            "scales of groups are bfloat16",
            lambda part: replace(part.scheme, weight=replace(part.scheme.weight, scale_dtype=None)),
            "scales in bfloat16",
        ),
        Rule(
            "few-bits-per-channel",
            lambda part: _is_matrix(part) and part.scheme.weight.bits < 8 and not rules.in_groups(part),
            "container",
            "in codes of 8 bits",
        ),
        Rule(
            "zero-points-and-signs",
            lambda part: (
                _is_matrix(part)
                and rules.in_groups(part)
                and (rules.is_asymmetric(part) or rules.has_signed_scales(part))
            ),
            "equivalent",
            "zero points and signs of scales are folded into a second, small linear",
        ),
        Rule("rotation", rules.is_rotated, "equivalent", "inputs are multiplied with a matrix"),
    ),
)


def _without_size(part: Part) -> Part:
    return replace(part, scheme=Scheme(replace(part.scheme.weight, group_size=None)))
