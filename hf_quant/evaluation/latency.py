"""Times of a model: whole forward passes, first tokens and the tokens after them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.evaluation.clock import Clock, Work, clock_for
from hf_quant.evaluation.energy import meter_for

FORWARD, PREFILL, DECODE = "forward", "prefill", "decode"
"""Names of what is timed: a whole forward pass; a prompt up to its first token; each token after it."""


@dataclass
class Samples:
    """Times and energy of the calls in one turn of a task.

    Args:
        seconds: Seconds of each call; a call of `DECODE` is one token for every sequence of the batch.
        cpu_seconds: Processor time of all calls in seconds, all threads of this process together.
        joules: Energy of all calls, in joules; None where nothing counts it.
    """

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    joules: float | None = None


class Gauge:
    """Measures the time, processor time and energy of calls on one device."""

    def __init__(self, device: torch.device):
        self.clock: Clock = clock_for(device)
        self.meter, self.energy = meter_for(device)

    def calls(self, work: Work, samples: Samples, again: Callable[[], bool]) -> None:
        """Call work once, and again while `again()` is true; what the calls took is added to `samples`."""
        counters = self.meter.read() if self.meter else None
        cpu = time.process_time()
        while True:
            samples.seconds.append(self.clock.seconds(work))
            if not again():
                break
        samples.cpu_seconds += time.process_time() - cpu
        if self.meter and counters is not None:
            spent = self.meter.joules(counters, self.meter.read())
            samples.joules = (samples.joules or 0.0) + spent


@torch.inference_mode()
def forward_turn(model: nn.Module, inputs: dict[str, Tensor], gauge: Gauge, at_least: float) -> dict[str, Samples]:
    """Time forward passes: as many as begin within `at_least` seconds, and one at least.

    Args:
        model: Model that is called as ``model(**inputs)``.
        inputs: Keyword arguments of the call, on the model's device.
        gauge: Measures calls on the model's device.
        at_least: Seconds within which calls begin.
    """
    samples, until = Samples(), time.perf_counter() + at_least
    gauge.calls(lambda: model(**inputs), samples, lambda: time.perf_counter() < until)
    return {FORWARD: samples}


@torch.inference_mode()
def generation_turn(
    model: Any, inputs: dict[str, Tensor], gauge: Gauge, at_least: float, new_tokens: int
) -> dict[str, Samples]:
    """Time greedy generations: as many as begin within `at_least` seconds, and one at least.

    What is timed is the forward pass and the choice of the token, as a loop around the model does it; ``generate`` adds
    its own work to each token.

    Args:
        model: A causal language model.
        inputs: The prompt: ``input_ids [batch, length]``, and what else the model takes, such as ``attention_mask``.
        gauge: Measures calls on the model's device.
        at_least: Seconds within which generations begin.
        new_tokens: Tokens to generate for each sequence, the first included; 1 measures the first alone.
    """
    samples = {PREFILL: Samples(), **({DECODE: Samples()} if new_tokens > 1 else {})}
    until = time.perf_counter() + at_least
    while True:
        generation = _Generation(model, inputs)
        gauge.calls(generation.prompt, samples[PREFILL], lambda: False)
        if new_tokens > 1:
            generation.left = new_tokens - 1
            gauge.calls(generation.step, samples[DECODE], generation.goes_on)
        if time.perf_counter() >= until:
            return samples


class _Generation:
    """One greedy generation: the prompt, then tokens one at a time."""

    def __init__(self, model: Any, inputs: dict[str, Tensor]):
        self.model, self.inputs = model, inputs
        self.mask = inputs.get("attention_mask")
        # Only the last position makes a token; without this, long prompts would mostly time their heads.
        takes = inspect.signature(model.forward).parameters
        self.options = {"use_cache": True, **({"logits_to_keep": 1} if "logits_to_keep" in takes else {})}
        self.cache: Any = None
        self.token: Tensor | None = None
        self.left = 0

    def goes_on(self) -> bool:
        """Whether tokens are left to generate."""
        return self.left > 0

    def prompt(self) -> None:
        """Compute the prompt and choose the first token of every sequence."""
        self._choose(self.model(**self.inputs, **self.options))

    def step(self) -> None:
        """Compute the next token of every sequence."""
        self.left -= 1
        call: dict[str, Any] = {"input_ids": self.token, "past_key_values": self.cache, **self.options}
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
            call["attention_mask"] = self.mask
        self._choose(self.model(**call))

    def _choose(self, output: Any) -> None:
        self.cache, self.token = output.past_key_values, output.logits[:, -1:].argmax(-1)
