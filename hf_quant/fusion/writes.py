"""Whether a tensor was written to between two moments, in eager mode and while a graph is traced."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch

torch.library.define("hf_quant::writes", "(Tensor input) -> Tensor")

_count = itertools.count()
_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""Numbers of traces, by their fake tensor mode."""


@torch.library.register_fake("hf_quant::writes")
def _traced(input: torch.Tensor) -> torch.Tensor:
    # Dynamo keeps `_version` from the code that it traces, but works out shapes while it traces, with stand-ins that
    # count writes, also those through views. So it is a shape that tells: [number of the trace, writes in it]. Where
    # they do not count, no two are alike.
    mode = getattr(input, "fake_mode", None)
    if mode is None or input.is_inference():
        return torch.empty(next(_count), 0, device="meta")
    if mode not in _numbers:
        _numbers[mode] = next(_count)
    return torch.empty(_numbers[mode], input._version, device="meta")


@torch.library.impl("hf_quant::writes", "CompositeExplicitAutograd")
def _run(input: torch.Tensor) -> torch.Tensor:
    # Compilers drop the call, whose result nothing reads; this is for backends that run a graph as it was traced.
    return input.new_empty(0)


Stamp = tuple[int, ...] | torch.Tensor | None


def stamp(input: torch.Tensor) -> Stamp:
    """What `is_unwritten` takes later to tell whether `input` is what it was; None where that cannot be told.

    Writes through views and aliases count, but not those through ``.data``, which torch counts nowhere.
    """
    if torch.compiler.is_dynamo_compiling():
        return tuple(torch.ops.hf_quant.writes.default(input).shape)
    if not input.is_inference():
        return (input._version,)
    # Tensors of inference mode count no writes: what they hold is compared.
    return None if torch.compiler.is_compiling() else input.clone()


def is_unwritten(input: torch.Tensor, earlier: Stamp) -> bool:
    """Whether nobody has written to `input` since it got the stamp `earlier`, in the same trace or outside of any."""
    if isinstance(earlier, torch.Tensor):
        return not torch.compiler.is_compiling() and torch.equal(input, earlier)
    return earlier is not None and stamp(input) == earlier
