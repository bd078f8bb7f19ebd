"""Copies of a module in float32 whose linears are cheap and exact, to see what it computes around them.

Quantized linears round their inputs, which hides what else a module does. Weights are drawn anew, because what holds
for them alone need not hold for those that are loaded next. Whatever else has parameters or buffers is left without
them, so that a module which reads them fails.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_quant.fusion.mixin import Fused
from hf_quant.modules.linear import QuantizedLinear


class LinearStandIn(nn.Linear):
    """A random linear map in float32 with two weights an output, so that it costs no more than its output.

    Args:
        linear: Quantized linear that gives the widths, and whether there is a bias.
        generator: Generator of the random weights.
        biased: Whether there is a bias where `linear` has one; without it small inputs give small outputs.
    """

    def __init__(self, linear: QuantizedLinear, generator: torch.Generator, biased: bool):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        rows = self.out_features
        self.starts = torch.randint(self.in_features, (2,), generator=generator, device="cpu").tolist()
        self.factors = [torch.randn(rows, generator=generator, device="cpu") for _ in range(2)]
        # Asked for its dtype, it has the weight of a float linear. Multiplied with, it gives no number.
        nothing = torch.full((1, 1), torch.nan, device="cpu")
        self.weight = nn.Parameter(nothing.expand(rows, self.in_features), requires_grad=False)
        bias = None
        if linear._parameters["bias"] is not None:
            bias = nn.Parameter(torch.randn(rows, generator=generator, device="cpu") * biased, requires_grad=False)
        self.bias = bias  # type: ignore[assignment]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Outputs of the random map, ``[..., in] -> [..., out]``."""
        # Output i sees inputs i + start, from the first again after the last: slices are faster than indices.
        round = torch.cat([input] * (2 + self.out_features // self.in_features), dim=-1)
        one, two = (round.narrow(-1, start, self.out_features) for start in self.starts)
        output = (one * self.factors[0]).addcmul_(two, self.factors[1])
        return output if self.bias is None else output + self.bias


def stand_in(module: nn.Module, generator: torch.Generator, biased: bool = True) -> nn.Module:
    """A copy of `module` in evaluation mode that shares no tensor with it and calls no hooks; never fused.

    Args:
        module: A block with quantized linears.
        generator: Generator of all random weights.
        biased: Whether linears have biases.
    """
    return _copied(module, generator, biased, {})


def _copied(module: nn.Module, generator: torch.Generator, biased: bool, memo: dict[int, nn.Module]) -> nn.Module:
    if id(module) not in memo:
        if isinstance(module, QuantizedLinear):
            memo[id(module)] = LinearStandIn(module, generator, biased)
        elif type(module) is nn.LayerNorm:
            memo[id(module)] = _random_layer_norm(module, generator)
        else:
            memo[id(module)] = copied = bare_copy(module)
            children = {
                name: None if child is None else _copied(child, generator, biased, memo)
                for name, child in module._modules.items()
            }
            copied.__dict__["_modules"] = children
    return memo[id(module)]


def bare_copy(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode without children, hooks, parameters and buffers, of the class it has unfused."""
    original: type[nn.Module] = type(module).__bases__[1] if isinstance(module, Fused) else type(module)
    copied: nn.Module = original.__new__(original)
    copied.__dict__.update(nn.Module().__dict__)
    for name, value in module.__dict__.items():
        if name not in copied.__dict__ and name != "fused":
            copied.__dict__[name] = value
    # What is not there on purpose is there as None. What is there is missing: a look at it fails.
    for kind in ("_parameters", "_buffers"):
        copied.__dict__[kind] = {name: None for name, tensor in module.__dict__[kind].items() if tensor is None}
    copied.training = False
    return copied


def _random_layer_norm(norm: nn.LayerNorm, generator: torch.Generator) -> nn.LayerNorm:
    made: Any = nn.LayerNorm(
        norm.normalized_shape, norm.eps, norm.weight is not None, norm.bias is not None, device="cpu"
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, device="cpu"))
    made.requires_grad_(False)
    return made.eval()
