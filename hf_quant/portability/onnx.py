"""What ONNX Runtime, and OpenVINO with the same file, compute with a model in ONNX."""

from __future__ import annotations

from dataclasses import replace

from hf_quant.config.scheme import Scheme
from hf_quant.portability import rules
from hf_quant.portability.facts import Facts, Part, Rule

_GROUPS = (16, 32, 64, 128, 256)
_BITS = (2, 4, 8)


def _is_blocked(part: Part) -> bool:
    """Whether it is computed by ``MatMulNBits``: weights with float inputs, or groups on both sides."""
    return rules.has_codes(part) and (rules.is_weight_only(part) or rules.in_groups(part))


def _is_matrix(part: Part) -> bool:
    return _is_blocked(part) and part.kind != "embedding"


RULES: tuple[Rule, ...] = (
    rules.opened(),
    rules.codebook("ONNX has no operator for codebooks"),
    rules.sixteen_bits(),
    Rule("floats", rules.is_stored_float, "container", "computed in float32"),
    Rule(
        "groups",
        lambda part: _is_matrix(part) and rules.in_groups(part) and part.scheme.weight.group_size not in _GROUPS,
        "refused",
        "groups have 16, 32, 64, 128 or 256 numbers",
        lambda part: Scheme(replace(part.scheme.weight, granularity="channel", group_size=None)),
        "groups of 16, 32, 64, 128 or 256",
    ),
    Rule(
        "input-per-tensor",
        rules.inputs("tensor"),
        "refused",
        "no scale of a whole input is found at run time",
        rules.per_token,
        "inputs per token",
    ),
    Rule(
        "groups-and-tokens",
        lambda part: _is_blocked(part) and rules.inputs("token")(part),
        "refused",
        "weights in groups go with inputs in groups, or with float ones",
        rules.weight_only,
        "weights only",
    ),
    Rule(
        "bits",
        lambda part: _is_blocked(part) and part.scheme.weight.bits not in _BITS,
        "container",
        "in codes of 2, 4 or 8 bits",
    ),
    Rule("rotation", rules.is_rotated, "equivalent", "inputs are multiplied with one matrix that all share"),
    Rule(
        "scale-per-row",
        lambda part: _is_matrix(part) and not rules.in_groups(part),
        "equivalent",
        "the scale of a channel is repeated for each block",
    ),
)
FACTS = Facts("ONNX Runtime", RULES)
OPENVINO = Facts("OpenVINO, from the file in ONNX", RULES)
