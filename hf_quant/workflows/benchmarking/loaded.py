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
    """A model in the memory of this process that is timed in turns.

    Args:
        model: Transformers model, on the device it is timed on; in evaluation mode until `close`.

    Raises:
        UnsupportedModel: The object is no Transformers model.
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
        """Facts about the model. Call it after a turn, as kernels may be chosen at first use."""
        return facts_of(self.model)

    def instruments(self) -> dict[str, str]:
        """Names of the device, the clock and the energy counter."""
        return {"device": str(self.device), "clock": self.gauge.clock.name, "energy": self.gauge.energy}

    def give(self, inputs: dict[str, Tensor]) -> None:
        """Set the inputs for cases that have none of their own."""
        self.given = inputs

    def turn(self, case: Case, seconds: float) -> dict[str, Samples]:
        """Run one turn of a case: calls that begin within `seconds`, one at least; names of tasks to samples."""
        inputs = case.inputs() if case.vocabulary is not None else self.given
        assert inputs is not None
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        if case.new_tokens:
            return generation_turn(self.model, inputs, self.gauge, seconds, case.new_tokens)
        return forward_turn(self.model, inputs, self.gauge, seconds)

    def device_peak(self, anew: bool = False) -> int | None:
        """Most bytes that tensors took on a CUDA device so far, None on others; `anew` resets the peak first."""
        if anew:
            reset_device_peak(self.device)
        return device_peak(self.device)

    def close(self) -> None:
        """Set the model back to the mode it was in."""
        self.model.train(self.was_training)


def plain(samples: dict[str, Samples]) -> dict[str, dict[str, Any]]:
    """Samples of tasks as a JSON-ready dict."""
    return {task: asdict(entry) for task, entry in samples.items()}
