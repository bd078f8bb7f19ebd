"""How much of a model stays float though nobody asked for it, and why."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule

NOT_IN_PLAN = "no pattern of the plan matches it"
BY_PLAN = "the plan keeps it float"
LEFT_OUT = "listed in modules_to_not_convert"
OF_SOURCE = "the program that quantized the checkpoint left it float"
WISHES = (NOT_IN_PLAN, BY_PLAN, LEFT_OUT, OF_SOURCE)
"""Reasons that are the user's own, or those of whose checkpoint it is."""

WORTH_A_WORD = 0.1
"""Share of the float weights from which on users are told."""
_MOST = 3
_OF_BIASES = "biases of quantized modules"


@dataclass(frozen=True)
class LeftFloat:
    """Weights that stayed float for another reason than the user's wish.

    Args:
        share: Of the bytes that all weights take as floats, 0 to 1.
        reasons: Reason to its part of `share`, the largest first.
        examples: Reason to the name of the largest module that it holds for.
    """

    share: float
    reasons: Mapping[str, float]
    examples: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, kept_float: Mapping[str, str]) -> LeftFloat:
        """Count the parameters of a quantized model, each once however many modules share it.

        Args:
            model: Quantized, or about to be.
            kept_float: Module name to the reason why it stayed float.
        """
        sizes: dict[int, int] = {}
        holders: dict[int, list[str]] = defaultdict(list)
        quantized: set[int] = set()
        biases: set[int] = set()
        for name, module in model.named_modules():
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                sizes[id(parameter)] = parameter.numel() * parameter.element_size()
                holders[id(parameter)].append(name)
                if isinstance(module, QuantizedModule | StoredModule):
                    (quantized if key == "weight" else biases).add(id(parameter))
        reasons: dict[str, int] = defaultdict(int)
        largest: dict[str, tuple[int, str]] = {}
        for found, size in sizes.items():
            names = holders[found]
            said = [kept_float[name] for name in names if name in kept_float]
            if found in quantized or any(reason in WISHES for reason in said):
                continue
            # What is tied to a float weight has a reason of its own only in that weight.
            said = said or [_OF_BIASES if found in biases else "not said why"]
            reason = next((each for each in said if not each.startswith("tied to ")), said[0])
            reasons[reason] += size
            largest[reason] = max(largest.get(reason, (0, "")), (size, names[0]))
        total = max(1, sum(sizes.values()))
        ordered = sorted(reasons, key=lambda reason: -reasons[reason])
        return cls(
            sum(reasons.values()) / total,
            {reason: reasons[reason] / total for reason in ordered},
            {reason: largest[reason][1] for reason in ordered},
        )

    def __str__(self) -> str:
        """One sentence; empty where so little stays float that it is not worth a word."""
        if self.share <= WORTH_A_WORD:
            return ""
        shown = [(reason, part) for reason, part in self.reasons.items() if part >= 0.005][:_MOST]
        parts = (
            f"{part:.1%} {reason} ({re.sub(r'[.][0-9]+(?=[.]|$)', '.*', self.examples[reason])})"
            for reason, part in shown
        )
        return f"{self.share:.1%} of the weights stay float though nobody asked for it: {'; '.join(parts)}"
