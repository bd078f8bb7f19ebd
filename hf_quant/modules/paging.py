"""Memory of codes that a kernel has laid out anew: given back, and stood in for."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import nn

_PAGE = 4096
_MADV_PAGEOUT = 21


def page_out(tensor: torch.Tensor) -> None:
    """Advise Linux to reclaim the pages that lie wholly within a CPU tensor.

    The codes of a checkpoint are mapped from its file; once a kernel has its own layout of them, their pages would
    stay resident for nothing. Advice only: contents are untouched, and pages come back when they are read. Elsewhere,
    or where the advice is not known, nothing happens.
    """
    if not sys.platform.startswith("linux") or tensor.device.type != "cpu":
        return
    start = -(-tensor.data_ptr() // _PAGE) * _PAGE
    length = (tensor.data_ptr() + tensor.nbytes - start) // _PAGE * _PAGE
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_PAGEOUT)


def stand_in(weight: torch.Tensor) -> nn.Parameter:
    """A parameter of the shape and dtype of `weight` that takes the memory of a single number."""
    zero = torch.zeros(1, dtype=weight.dtype, device=weight.device)
    return nn.Parameter(zero.expand(weight.shape), requires_grad=False)
