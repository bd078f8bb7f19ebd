"""What TensorRT takes of a model in ONNX: pairs of quantizing and decoding nodes, symmetric on both sides."""

from __future__ import annotations

from dataclasses import replace

from hf_quant.config.scheme import Scheme
from hf_quant.portability import rules
from hf_quant.portability.facts import Facts, Part, Rule


def _static(part: Part) -> bool:
    return rules.inputs("tensor", dynamic=False)(part)


def _symmetric_inputs(part: Part) -> Scheme:
    assert part.scheme.input is not None
    return replace(part.scheme, input=replace(part.scheme.input, symmetric=True))


def _is_matrix(part: Part) -> bool:
    return rules.has_codes(part) and part.kind != "embedding" and not rules.is_opened(part)


FACTS = Facts(
    "TensorRT",
    (
        rules.opened(),
        rules.codebook("TensorRT has no codebooks"),
        rules.sixteen_bits(),
        Rule("floats", rules.is_stored_float, "container", "computed in the dtype of the engine"),
        rules.embedding_as_floats(),
        Rule(
            "dynamic",
            lambda part: _is_matrix(part) and part.scheme.input is not None and part.scheme.input.dynamic,
            "refused",
            "inputs have scales from calibration, not from each input",
            rules.weight_only,
            "int8-static with symmetric inputs, or weights only",
        ),
        Rule(
            "asymmetric",
            lambda part: _is_matrix(part) and rules.is_asymmetric(part),
            "refused",
            "zero points of weights have to be 0",
            rules.symmetric,
            "symmetric weights",
        ),
        Rule(
            "asymmetric-inputs",
            lambda part: _is_matrix(part) and _static(part) and not (part.scheme.input and part.scheme.input.symmetric),
            "refused",
            "zero points of inputs have to be 0",
            _symmetric_inputs,
            "symmetric inputs",
        ),
        Rule(
            "bits",
            lambda part: _is_matrix(part) and part.scheme.weight.bits not in (4, 8),
            "refused",
            "weights have 4 or 8 bits",
            lambda part: rules.with_bits(4 if part.scheme.weight.bits <= 4 else 8)(part),
            "4 or 8 bits",
        ),
        Rule(
            "rotation",
            lambda part: _is_matrix(part) and rules.is_rotated(part),
            "equivalent",
            "inputs are multiplied with a matrix",
        ),
    ),
)
