"""A layer to quantize in tests: weights, correlated inputs of very different sizes, and what solvers are judged by."""

import torch

from hf_quant.algorithms.base import InputStatistics
from hf_quant.formats import format_of
from hf_quant.formats.packing import unpack
from hf_quant.formats.rotation import rotate
from tests.zero_points import zero_points_of


def make_weight(rows=24, width=64, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, width, generator=generator) * torch.logspace(-2, 1, rows)[:, None]).to(dtype)


def make_inputs(width=64, seed=0, tokens=256):
    """Inputs that a few directions explain for the most part."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, width // 8, generator=generator) @ torch.randn(width // 8, width, generator=generator)
    noise = torch.randn(tokens, width, generator=generator)
    return (mixed + noise) * torch.randn(width, generator=generator).exp() + 0.1


def statistics(inputs):
    hessian = inputs.t() @ inputs / len(inputs)
    return InputStatistics(len(inputs), inputs.mean(0), inputs.abs().mean(0), inputs.abs().amax(0), hessian)


def decoded(solved, scheme, shape, turn_back=True):
    """What the codes stand for, ``[rows, width]``; turned back where the scheme rotates, unless told otherwise."""
    groups = 1 if scheme.granularity == "tensor" else solved["scale"].shape[1]
    codes = unpack(solved["codes"], scheme.bits, shape[1]).unflatten(-1, (groups, -1))
    zero_point = zero_points_of(solved, scheme)
    zero_point = None if zero_point is None else zero_point[..., None]
    real = format_of(scheme).decode(codes, solved["scale"][..., None].float(), zero_point).flatten(-2)
    return rotate(real, scheme.rotation) if scheme.rotation and turn_back else real


def output_error(weight, solved, scheme, hessian):
    """``trace((W - Wq) H (W - Wq)^T)``, in float64."""
    error = weight.double() - decoded(solved, scheme, weight.shape).double()
    return float(((error @ hessian.double()) * error).sum())


def weighted_error(weight, solved, scheme, importance=None):
    """Squared error of the rows as they are rounded, weighed by the importance of each input, in float64."""
    real = rotate(weight.float(), scheme.rotation) if scheme.rotation else weight
    squares = (real.double() - decoded(solved, scheme, weight.shape, turn_back=False).double()).square()
    return float((squares if importance is None else squares * importance.double()).sum())
