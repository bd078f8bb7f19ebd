"""A model in the memory of this process, as the rounds of a benchmark ask it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from hf_quant.errors import UnsupportedModel
from hf_quant.evaluation.latency import Gauge, Samples, forward_turn, generation_turn
from hf_quant.evaluation.memory import device_peak, reset_device_peak
from hf_quant.workflows.benchmarking.cases import Case
from hf_quant.workflows.benchmarking.facts import Facts, facts_of


class LoadedModel:
    """Times one model.

    Args:
        model: A Transformers model, on the device it is to be timed on; set to evaluation until `close`.

    Raises:
        UnsupportedModel: Something else.
    """

    def __init__(self, model: Any):
        if not hasattr(model, "config") or not hasattr(model, "can_generate"):
            raise UnsupportedModel(
                f"benchmark takes Transformers models, directories and repository ids, not {type(model).__name__}"
            )
        self.model, self.was_training = model, model.training
        model.eval()
        self.device: torch.device = next(model.parameters()).device
        self.gauge = Gauge(self.device)
        self.given: dict[str, Tensor] | None = None

    def facts(self) -> Facts:
        """What it is. Call it after a turn: kernels may be chosen at first use."""
        return facts_of(self.model)

    def instruments(self) -> dict[str, str]:
        """The device, and names of the clock and of what counts energy."""
        return {"device": str(self.device), "clock": self.gauge.clock.name, "energy": self.gauge.energy}

    def give(self, inputs: dict[str, Tensor]) -> None:
        """Take these inputs for cases that have none of their own."""
        self.given = inputs

    def turn(self, case: Case, seconds: float) -> dict[str, Samples]:
        """As many calls as begin within `seconds`, one at least; by name of the task."""
        inputs = case.inputs() if case.vocabulary is not None else self.given
        assert inputs is not None
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        if case.new_tokens:
            return generation_turn(self.model, inputs, self.gauge, seconds, case.new_tokens)
        return forward_turn(self.model, inputs, self.gauge, seconds)

    def device_peak(self, anew: bool = False) -> int | None:
        """Most memory of tensors on a CUDA device so far; `anew` begins to look for it."""
        if anew:
            reset_device_peak(self.device)
        return device_peak(self.device)

    def close(self) -> None:
        """Set the model back to training where it was."""
        self.model.train(self.was_training)


def plain(samples: dict[str, Samples]) -> dict[str, dict[str, Any]]:
    """JSON-ready."""
    return {task: asdict(entry) for task, entry in samples.items()}
