"""`hf_quant.portability`: what a target takes of a quantized model, and what to quantize to instead."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hf_quant.errors import ConfigError, UnsupportedModel
from hf_quant.portability import TARGETS
from hf_quant.portability.facts import Facts
from hf_quant.portability.overrides import overrides_of
from hf_quant.portability.report import PortabilityReport
from hf_quant.portability.survey import parts_of
from hf_quant.registry import unknown


def portability(model: Any, target: str, accept: Collection[str] = ()) -> PortabilityReport:
    """Report which modules of a quantized model a target takes: exactly, in a container, equivalently, or not at all.

    Args:
        model: Quantized Transformers model, in memory. It is run once, on random inputs.
        target: Name of a target, such as ``"onnx"``.
        accept: Names of refusals that are not to count, such as ``"rotation"`` for a program that is known to rotate.

    Raises:
        UnknownName: There is no such target.
        ConfigError: There is no refusal of such a name that can be accepted.
        UnsupportedModel: The model is not quantized.
    """
    facts: Facts = TARGETS[target]
    check_accepted(facts, target, accept)
    parts, note = parts_of(model)
    if not parts:
        raise UnsupportedModel(
            f"{type(model).__name__} has no quantized modules: quantize it first, hf_quant.quantize(model, config)"
        )
    verdicts = tuple(facts.verdict(part, accept) for part in parts)
    return PortabilityReport(target, facts.summary, verdicts, overrides_of(parts, verdicts), note)


def check_accepted(facts: Facts, target: str, accept: Collection[str]) -> None:
    """Raise ConfigError for a name of no refusal of a target that a user may accept."""
    known = list(dict.fromkeys(rule.name for rule in facts.rules if rule.may_be_accepted))
    for name in accept:
        if name not in known:
            raise ConfigError(unknown(f"refusal of {target} that can be accepted", name, known or ["none at all"]))
