"""The weight clipping of AWQ (Lin et al., arXiv:2306.00978): a narrower range rounds what is left in it more finely."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_quant.algorithms.base import Transformed
from hf_quant.algorithms.pair_error import checked
from hf_quant.algorithms.rounding import rounded_weight
from hf_quant.calibration.pairs import Pair, weight_matrix
from hf_quant.calibration.statistics import InputStatistics
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.formats.rotation import rotate

_STEPS, _NARROWEST = 20, 0.5
"""Ranges that are tried, down to half of the whole, as in the authors' program."""


class AwqClip:
    """Clips every weight that becomes codes, each group or channel to the share of its range that costs least.

    This changes what the block computes, so it goes last, right before a solver. The authors leave queries and keys
    unclipped, by name; here they are clipped like any other. The whole range is one of the choices, so the error of a
    linear's output by any one group, which includes what clipping alone does, is never raised.
    """

    needs: frozenset[str] = frozenset({"hessian"})

    @torch.no_grad()
    def apply(
        self,
        block: nn.Module,
        pairs: Sequence[Pair],
        inputs: Mapping[str, InputStatistics],
        schemes: Mapping[str, Scheme],
    ) -> Transformed:
        """Clip the linears of `block` in place, those in no pair too; see `Transform`. Statistics stay as they are."""
        report = []
        # A range that a whole matrix shares cannot be chosen row by row.
        chosen = {
            name: scheme.weight
            for name, scheme in schemes.items()
            if scheme.weight.has_scales and scheme.weight.granularity != "tensor"
        }
        hessians = {name: checked(inputs, name, self.needs).hessian for name in chosen}
        for name, scheme in chosen.items():
            weight, hessian = weight_matrix(block.get_submodule(name)), hessians[name]
            assert hessian is not None
            clipped, share = clip(weight, scheme, hessian, name)
            weight.copy_(clipped)
            report.append(f"{name}: squared error within groups {share:.3f} of what it was")
        if not report:
            warnings.warn(
                f"awq-clip found no weight in groups or channels to clip in {type(block).__name__}, and leaves it as "
                "it is: take the transform out of the recipe for this model and these schemes",
                stacklevel=2,
            )
        return Transformed(dict(inputs), report)


def clip(weight: Tensor, scheme: TensorScheme, hessian: Tensor, name: str) -> tuple[Tensor, float]:
    """Clip each group of each row to the share of its largest magnitude that loses least when rounded to nearest.

    The error of a group is ``d H d^T`` with the group's own block of ``H``: groups are chosen one without the other.

    Args:
        weight: Float weight ``[rows, width]``.
        scheme: Format of the weight, in groups or per channel, which is one group.
        hessian: Second moments of the inputs, the mean of ``x x^T``: float32 ``[width, width]``.
        name: Name of the weight, for error messages.

    Returns:
        float32 clipped weights, and their error as a share of that without clipping.

    Raises:
        WeightError: The weight holds NaN or Inf.
    """
    rows, width = weight.shape
    size = scheme.group_size or width
    # Ranges are those of rotated rows, which are rounded as they are: without a rotation of their own.
    plain = TensorScheme.from_dict({**scheme.to_dict(), "rotation": None})
    real = weight.to(torch.float32)
    if scheme.rotation is not None:
        real, hessian = rotate(real, scheme.rotation), rotate(rotate(hessian, scheme.rotation).T, scheme.rotation)
    blocks = hessian.reshape(width // size, size, width // size, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    largest = real.view(rows, -1, size).abs().amax(-1, keepdim=True)

    def clipped(share: float | Tensor) -> Tensor:
        bound = (largest * share).expand(rows, -1, size).reshape(rows, width)
        return real.clamp(-bound, bound)

    def errors(share: float) -> Tensor:
        difference = (rounded_weight(clipped(share), plain, name) - real).view(rows, -1, size).transpose(0, 1)
        return ((difference @ blocks) * difference).sum(-1).T

    whole = least = errors(1.0)
    best = torch.ones_like(least)
    for step in range(1, _STEPS + 1):
        share = 1 - (1 - _NARROWEST) * step / _STEPS
        found = errors(share)
        best = torch.where(found < least, share, best)
        least = torch.minimum(found, least)
    result = clipped(best[..., None])
    result = result if scheme.rotation is None else rotate(result, scheme.rotation)
    return result, (least.sum() / whole.sum().clamp(min=torch.finfo(torch.float32).tiny)).item()
