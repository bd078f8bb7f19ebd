"""What rounding does to the outputs of the consumers of a pair, for any scales of their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from hf_quant.algorithms.base import scaled
from hf_quant.algorithms.rounding import rounded_input, rounded_weight
from hf_quant.calibration.pairs import Pair, apply_scales, weight_matrix
from hf_quant.calibration.statistics import InputStatistics, of_all
from hf_quant.calibration.tracing import is_router
from hf_quant.config.scheme import Scheme
from hf_quant.errors import CalibrationError

_TOKENS = 64
"""Tokens drawn to measure what rounding the inputs costs."""


@dataclass(frozen=True)
class PairError:
    """Output errors of a pair's consumers, for any scales of their inputs.

    Scales are float32 ``[width]``, one for each input of the consumers, equal where inputs share a channel.

    Args:
        pair: Pair of modules in the block.
        each: Statistics of the inputs of each quantized consumer, by name. Experts see some of the tokens only.
        weights: Float weights ``[out, width]`` of all consumers, by name.
        schemes: Schemes of the consumers that are quantized, by name.
        feeds_router: Whether a router is among the consumers.
    """

    pair: Pair
    each: Mapping[str, InputStatistics]
    weights: Mapping[str, Tensor]
    schemes: Mapping[str, Scheme]
    feeds_router: bool = False

    @cached_property
    def inputs(self) -> InputStatistics:
        """Statistics of the inputs of all quantized consumers."""
        return of_all(self.each.values())

    def of_weights(self, scales: Tensor) -> float:
        """Mean squared error of the outputs by rounding weights to nearest, summed over channels and consumers.

        With ``D`` the error of the weights as unscaled inputs see it and ``H`` the mean of ``x x^T``, this is exactly
        ``trace(D H D^T)``. The mean is over the tokens of the consumer that sees the most.
        """
        total = 0.0
        for name, scheme in self.schemes.items():
            weight = self.weights[name].to(torch.float32)
            difference = rounded_weight(weight * scales, scheme.weight, name) / scales - weight
            hessian = self.each[name].hessian
            assert hessian is not None
            total += self._share(name) * ((difference @ hessian) * difference).sum().item()
        return total

    def of_inputs(self, scales: Tensor) -> float:
        """Mean squared error of the outputs by rounding inputs, estimated on normal tokens with the inputs' moments."""
        assert self.inputs.hessian is not None
        deviation = (self.inputs.hessian.diagonal() - self.inputs.mean.square()).clamp(min=0).sqrt()
        noise = torch.randn(_TOKENS, len(deviation), generator=torch.Generator().manual_seed(0)).to(deviation)
        tokens = self.inputs.mean + noise * deviation
        # None is larger than any that was seen.
        tokens = tokens.clamp(-self.inputs.max_abs, self.inputs.max_abs) / scales
        total = 0.0
        for name, scheme in self.schemes.items():
            difference = rounded_input(tokens, scheme, self.inputs.max_abs / scales) - tokens
            outputs = difference @ (self.weights[name].to(torch.float32) * scales).T
            total += self._share(name) * outputs.square().sum(-1).mean().item()
        return total

    def _share(self, name: str) -> float:
        return self.each[name].count / max(each.count for each in self.each.values())

    def shared(self, per_input: Tensor, reduce: str) -> Tensor:
        """`per_input`, ``[width]``, reduced (``"amax"`` or ``"mean"``) over the inputs that share a channel."""
        return self.pair.spread(self.pair.collect(per_input, reduce))

    def allowed(self, scales: Tensor) -> Tensor:
        """The scales nearest to `scales` that may be tried: powers of two where a router reads the inputs.

        Multiplied with these, numbers of 16 bits are not rounded: tokens go to the very same experts as before.
        """
        return scales.log2().round().exp2() if self.feeds_router else scales

    def commit(self, block: nn.Module, scales: Tensor, inputs: dict[str, InputStatistics]) -> None:
        """Scale the pair in `block`, and the statistics of its consumers in `inputs`."""
        apply_scales(block, self.pair, self.pair.collect(scales, "amax"))
        # Those of linears on one tensor stay the very same.
        changed: dict[int, InputStatistics] = {}
        for name in self.pair.consumers:
            if (before := inputs.get(name)) is not None:
                inputs[name] = changed[id(before)] = changed.get(id(before)) or scaled(before, scales)

    def __str__(self) -> str:
        return f"{self.pair.producer} -> {', '.join(self.pair.consumers)}"


def pair_errors(
    block: nn.Module,
    pairs: Sequence[Pair],
    inputs: Mapping[str, InputStatistics],
    schemes: Mapping[str, Scheme],
    needs: frozenset[str],
    transform: str,
) -> Iterator[PairError]:
    """The pairs with a consumer among `schemes` whose weight becomes codes; a warning where there are none.

    `inputs` is checked at once, but read for each pair anew: two pairs may have a consumer in common, as where both the
    gate and its factor are linear in their channels.

    Raises:
        CalibrationError: Statistics that a transform `needs` of such a consumer are missing, or hold NaN or Inf.
    """
    coded = {name: scheme for name, scheme in schemes.items() if scheme.weight.has_scales}
    quantized = {pair: [name for name in pair.consumers if name in coded] for pair in pairs}
    quantized = {pair: names for pair, names in quantized.items() if names}
    for name in (name for names in quantized.values() for name in names):
        checked(inputs, name, needs)
    if not quantized:
        warnings.warn(
            f"{transform} found no pair of modules to scale in {type(block).__name__}, and leaves it as it is: "
            "take the transform out of the recipe for this model and these schemes",
            stacklevel=3,
        )
    for pair, names in quantized.items():
        weights = {name: weight_matrix(block.get_submodule(name)).detach() for name in pair.consumers}
        each = {name: inputs[name] for name in names}
        feeds_router = any(is_router(block.get_submodule(name)) for name in pair.consumers)
        yield PairError(pair, each, weights, {name: coded[name] for name in names}, feeds_router)


def checked(inputs: Mapping[str, InputStatistics], name: str, needs: frozenset[str]) -> InputStatistics:
    """Statistics of the inputs of one linear, checked for use by a transform.

    Raises:
        CalibrationError: Statistics are missing, or those that are needed hold NaN or Inf.
    """
    if name not in inputs or inputs[name].count < 1:
        raise CalibrationError(f"no statistics of the inputs of {name}: let calibration data reach it")
    for need in sorted(needs):
        values = getattr(inputs[name], need)
        if values is None:
            raise CalibrationError(f"statistics of {name} lack {need}: gather what the transform `needs`")
        if not bool(values.isfinite().all()):
            raise CalibrationError(
                f"{need} of the inputs of {name} holds NaN or Inf: look for it in the calibration data, "
                "or run the model in float32"
            )
    return inputs[name]
