"""What plain Transformers computes with a checkpoint in the format of compressed-tensors."""

from __future__ import annotations

from dataclasses import replace

from hf_quant.config.scheme import Scheme
from hf_quant.portability import rules
from hf_quant.portability.facts import Facts, Part, Rule


def is_packed(part: Part) -> bool:
    """Whether codes are written as packed words, rather than one a byte."""
    return not (part.scheme.weight.bits == 8 and part.scheme.input is not None)


def is_written_float(part: Part) -> bool:
    """Whether the decoded weight is written, since the format has no codes for modules of this class."""
    return rules.has_codes(part) and not rules.is_opened(part) and part.made_as != "linear"


def _has_codes(part: Part) -> bool:
    return rules.has_codes(part) and not rules.is_opened(part) and part.made_as == "linear"


def _asymmetric_inputs(part: Part) -> Scheme:
    assert part.scheme.input is not None
    return replace(part.scheme, input=replace(part.scheme.input, symmetric=False))


_PER_TOKEN, _IN_GROUPS = rules.inputs("token"), rules.inputs("group")
_SYMMETRIC, _PER_TENSOR = rules.inputs("token", symmetric=True), rules.inputs("tensor")
_STATIC = rules.inputs("tensor", dynamic=False, symmetric=True)

WRITTEN: tuple[Rule, ...] = (
    rules.opened(),
    rules.codebook("compressed-tensors has no codebooks"),
    rules.sixteen_bits("compressed-tensors packs up to 8 bits"),
    Rule("floats", rules.is_stored_float, "container", "computed in the dtype of the model"),
    Rule(
        "written-float",
        lambda part: is_written_float(part) and (part.scheme.input is None or part.kind == "embedding"),
        "container",
        "written as the floats that the codes stand for: only linears of torch have codes there",
    ),
    Rule(
        "written-float",
        lambda part: is_written_float(part) and part.scheme.input is not None and part.kind != "embedding",
        "refused",
        "only linears of torch have quantized inputs there",
        rules.weight_only,
        "weights only",
    ),
    Rule(
        "tied",
        lambda part: bool(part.owner) and _has_codes(part),
        "container",
        "written a second time, beside the floats of the embedding",
    ),
    Rule(
        "per-tensor",
        lambda part: _has_codes(part) and part.scheme.weight.granularity == "tensor",
        "equivalent",
        "the one scale is repeated for each channel",
    ),
    Rule(
        "static-symmetric",
        lambda part: _has_codes(part) and _STATIC(part),
        "container",
        "inputs have the code -128, too, for what is beyond the range that was calibrated",
    ),
    Rule(
        "input-groups",
        lambda part: _has_codes(part) and _IN_GROUPS(part),
        "refused",
        "inputs in groups are scaled to 127.5 there, not to 127",
        rules.weight_only,
        "weights only",
    ),
    Rule(
        "symmetric-inputs",
        lambda part: _has_codes(part) and _SYMMETRIC(part),
        "refused",
        "symmetric inputs are scaled to 127.5 there, not to 127",
        _asymmetric_inputs,
        "asymmetric inputs",
    ),
    Rule(
        "input-per-tensor",
        lambda part: _has_codes(part) and _PER_TENSOR(part),
        "refused",
        "no scale of a whole input is found at run time there",
        rules.per_token,
        "inputs per token",
    ),
)
"""Of every program that reads such a checkpoint."""

FACTS = Facts(
    "plain Transformers with compressed-tensors",
    (
        *WRITTEN,
        Rule(
            "rotation",
            lambda part: _has_codes(part) and rules.is_rotated(part),
            "refused",
            "Transformers does not rotate inputs, and says nothing of it",
            rules.unrotated,
            "rotation=0",
            may_be_accepted=True,
        ),
        Rule(
            "asymmetric",
            lambda part: _has_codes(part) and rules.is_asymmetric(part) and is_packed(part),
            "refused",
            "compressed-tensors 0.19 to 0.20 cannot load packed zero points",
            rules.symmetric,
            "symmetric weights",
            may_be_accepted=True,
        ),
        Rule(
            "two-dimensions",
            lambda part: _has_codes(part) and _PER_TOKEN(part) and part.dimensions == 2,
            "refused",
            "inputs of two dimensions are quantized as a whole there, not per token",
            rules.weight_only,
            "weights only",
        ),
    ),
)
