"""Bytes of a checkpoint: additive ones to search with, and exact ones for a plan that was found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import torch
from torch import nn

from hf_quant.config.plan import Plan, fit
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError
from hf_quant.evaluation.file_size import MAX_SHARD, computed_bytes, header_entry, saved_tensors
from hf_quant.modules.base import TensorFacts
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.joined import base_of
from hf_quant.modules.state import cast_floats
from hf_quant.modules.swap import SWAPS
from hf_quant.opening.open import opened
from hf_quant.planner.cost.skeleton import quantized_skeleton, require_float, skeleton
from hf_quant.registry import unknown

_SHARD_BYTES = 50 * 10**9
"""`MAX_SHARD` as a number: more bytes than these go to one more file."""
_HEADER_BYTES = 8 + len('{"__metadata__":{"format":"pt"}}') + 7
"""Most bytes of an empty file: the header's length, its first entry, and padding."""


class DiskCosts:
    """What each choice for each module of a model costs on disk.

    The header of a safetensors file names the place of every tensor, so its length depends on all choices together.
    Here each place is counted with as many digits as the largest can have. Sums are therefore never below what is
    written, by a few bytes for each tensor at most above it, and additive; `exact` is to the byte. Experts that stay
    float with all others of their layer are written as few tensors, and counted here as many. A model of which nothing
    is quantized is written by Transformers, which may have other names for its experts.

    Args:
        model: Float model on any device; no weights are read, so the meta device serves.
        dtype: Dtype of what stays float; None: the model's.
        inventory: The model's inventory, if it was made already; None: it is made here.

    Raises:
        UnsupportedModel: The model is quantized already.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None, inventory: Inventory | None = None):
        require_float(model)
        with opened(model):
            self.inventory = Inventory.of(model) if inventory is None else inventory
            self.model = skeleton(model)
        if dtype is not None:
            cast_floats(self.model, dtype)
        self.candidates = self.inventory.candidates
        self.facts = saved_tensors(self.model, closed=False)
        self.float_bytes = computed_bytes(self.model)
        """Exact bytes of the whole float model."""
        # A float model in 16 bits can be stored in 32.
        self._digits = len(str(2 * self.float_bytes))
        weights = {f"{name}.weight" for name in self.candidates}
        rest = {name: facts for name, facts in self.facts.items() if name not in weights}
        files = 1 + 2 * self.float_bytes // _SHARD_BYTES
        self.fixed_bytes = files * _HEADER_BYTES + self._bytes(rest)
        """Bytes that no choice changes: norms, biases, other tensors, and the frame of the file."""

    def of(self, name: str, scheme: Scheme | None) -> int:
        """Bytes of one module's weight, scales and zero points under a scheme, their header entries included.

        Args:
            name: Name of a module that can be quantized.
            scheme: Scheme of the module; None for float. A module tied to another costs only what it does not share.

        Raises:
            PlanError: There is no such module, or the scheme does not fit it.
        """
        if name not in self.candidates:
            raise PlanError(unknown("module that can be quantized", name, self.candidates))
        if scheme is None:
            weight = f"{name}.weight"
            return self._bytes({weight: self.facts[weight]}) if weight in self.facts else 0
        module = self.model.get_submodule(name)
        fitted = fit(scheme, self.candidates[name], name)
        tied = name in self.inventory.ties
        build = SWAPS[base_of(type(module))][0 if fitted.weight.has_scales else 1]
        facts = saved_tensors(build(module, fitted, tied, torch.device("meta")))
        kept = {
            f"{name}.{tensor}": fact
            for tensor, fact in facts.items()
            if tensor != "bias" and not (tied and tensor == "weight")
        }
        return self._bytes(kept)

    def of_unit(self, names: Iterable[str], scheme: Scheme | None) -> int:
        """Bytes of several modules under one scheme."""
        return sum(self.of(name, scheme) for name in names)

    def exact(self, plan: Plan, max_shard: str = MAX_SHARD) -> int:
        """Bytes of the files that the model is saved to when it is quantized by `plan`.

        Raises:
            PlanError: The plan does not fit the model.
        """
        return computed_bytes(quantized_skeleton(self.model, plan, self.inventory), max_shard)

    def slack(self, tensors: int) -> int:
        """Most bytes by which a sum over `tensors` tensors can exceed the exact size of the file."""
        return 2 * (self._digits - 1) * tensors + (1 + 2 * self.float_bytes // _SHARD_BYTES) * _HEADER_BYTES

    def _bytes(self, facts: TensorFacts) -> int:
        place = int("9" * self._digits)
        total = 0
        for name, (shape, dtype) in facts.items():
            entry = json.dumps(
                {name: header_entry(shape, dtype, place, place)}, separators=(",", ":"), ensure_ascii=False
            )
            # Its braces make way for one comma.
            total += len(entry.encode()) - 1 + math.prod(shape) * dtype.itemsize
        return total


def plan_bytes(model: nn.Module, plan: Plan, max_shard: str = MAX_SHARD, inventory: Inventory | None = None) -> int:
    """Bytes of the files that a float model is saved to when it is quantized by `plan`, to the byte.

    Args:
        model: Float model on any device.
        plan: Module names or patterns to schemes.
        max_shard: Largest size of one file, such as ``"50GB"``: ``max_shard_size`` of ``save_pretrained``.
        inventory: The model's inventory, if it was made already; None: it is made here.

    Raises:
        PlanError: The plan does not fit the model.
        UnsupportedModel: The model is quantized already.
    """
    return computed_bytes(quantized_skeleton(model, plan, inventory), max_shard)
