"""What happens inside a graph while it runs: each quantized module on its very input, and all that is between them.

Outputs of a whole model say little where inputs are quantized: a last bit that differs moves a code, and that others.
Here nothing moves on: a module gets the input that it had in the graph, and what is between gets the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hf_quant.export.comparing import WEIGHT_ONLY, main_output, relative_error
from hf_quant.export.onnx.exact import allowed_at_ties, exact_output
from hf_quant.export.onnx.lowering import Places
from hf_quant.export.onnx.runtime import Arrays
from hf_quant.export.skeleton import skeleton
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.joined import Counterpart
from hf_quant.modules.stored import StoredModule

Run = Callable[[Arrays, Arrays | None], Arrays]
"""Inputs, and a cache or None, to the inputs and all numbers inside that `Places` name, and outputs, by name."""
_LAST = 2
"""Tokens that are decoded with the cache of those before."""


@dataclass
class Findings:
    """Errors inside a graph.

    Args:
        linears: Largest relative error of a token, by module, as far as no input lies at the border of two codes.
        beyond: Modules whose error is larger than 1e-5, and than what codes at borders make of it.
        between: Largest relative error of what modules get, and of the output, where all other modules gave the same.
    """

    linears: dict[str, float] = field(default_factory=dict)
    beyond: list[str] = field(default_factory=list)
    between: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.beyond and self.between <= WEIGHT_ONLY

    @property
    def figures(self) -> dict[str, float]:
        """What to tell."""
        return {
            "linears": max(self.linears.values(), default=0.0),
            "linears beyond rounding": float(len(self.beyond)),
            "between linears": self.between,
        }


@torch.no_grad()
def look_inside(model: Any, places: Places, run: Run, main: str, has_cache: bool, inputs: Any) -> Findings:
    """Compare every number that `places` name with that of the model.

    Args:
        model: Quantized.
        places: Where its modules are in the graph.
        run: Runs the graph.
        main: Name of its main output.
        has_cache: Whether it has a cache; the last tokens are then run with that of those before.
        inputs: Inputs of the model, by name.
    """
    found, values = Findings(), Arrays()
    calls: dict[str, int] = {}

    def replay(name: str, module: QuantizedModule | StoredModule) -> _Replay:
        return _Replay(lambda input: _replayed(name, module, input), tuple(module.weight.shape))

    def _replayed(name: str, module: QuantizedModule | StoredModule, input: torch.Tensor) -> torch.Tensor:
        call = calls[name] = calls.get(name, 0) + 1
        given, output = (torch.from_numpy(np.array(values[each])) for each in places[name][call - 1])
        found.between = _worse(found.between, relative_error(input, given))
        if isinstance(module, QuantizedModule):
            error, is_beyond = _error(module, given, output)
            found.linears[name] = _worse(found.linears.get(name, 0.0), error)
            found.beyond.extend([name] if is_beyond and name not in found.beyond else [])
        return output

    twin, past = skeleton(model, replay), None
    cache: dict[str, Any] = {}
    for step in _steps(inputs) if has_cache else [inputs]:
        values.clear()
        calls.clear()
        values.update(run({name: tensor.numpy() for name, tensor in step.items()}, past))
        result = twin(**step, **cache, **({"use_cache": True} if has_cache else {}))
        output = torch.from_numpy(np.array(values[main]))
        found.between = _worse(found.between, relative_error(main_output(result), output))
        if has_cache:
            cache = {"past_key_values": result.past_key_values}
            past = {name: value for name, value in values.items() if name.startswith("present")}
    return found


def _steps(inputs: Any) -> list[dict[str, torch.Tensor]]:
    ids = inputs["input_ids"]
    return [{"input_ids": ids[:, :-_LAST]}, {"input_ids": ids[:, -_LAST:]}] if ids.shape[1] > _LAST else [dict(inputs)]


class _Replay(Counterpart):
    """Gives what a module gave in a graph."""

    def __init__(self, give: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]):
        super().__init__()
        self.give = give
        self.register_buffer("weight", torch.full((1, 1), torch.nan).expand(shape), persistent=False)
        self.register_parameter("bias", None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """What the module gave there for this call."""
        return self.give(input)


def _worse(error: float, other: float) -> float:
    """The larger error; NaN is larger than any."""
    return error if other <= error or error != error else other


def _error(module: QuantizedModule, input: torch.Tensor, found: torch.Tensor) -> tuple[float, bool]:
    """Largest relative error of a token without an input at a border, and whether any token's is beyond its bound."""
    expected = exact_output(module, input).flatten(0, -2)
    sizes = expected.norm(dim=-1).clamp_min(1e-30)
    errors = (found.flatten(0, -2) - expected).norm(dim=-1)
    allowed = torch.zeros_like(errors) if not module.multiplies else allowed_at_ties(module, input.flatten(0, -2))
    sure = (errors / sizes)[allowed == 0]
    return float(sure.max()) if len(sure) else 0.0, not bool((errors <= WEIGHT_ONLY * sizes + allowed).all())
