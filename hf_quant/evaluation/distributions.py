"""How far apart two models' output distributions are, in few passes over the logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_NUMBERS_AT_ONCE = 2**18
"""Number of logits worked on at once: 1 MB in float32, so that passes after the first find them in the cache."""


@dataclass(frozen=True)
class Compared:
    """Comparison of two models' output distributions, row by row; tensors are on the CPU.

    Args:
        kl: Divergence ``KL(reference || quantized)`` in nats, float64 ``[rows]``; NaN where logits are.
        choices: Likeliest class by the reference and by the quantized model, int64 ``[rows]`` each.
        losses: Negative log-likelihoods of the targets by either model, in nats, float64 ``[rows]`` each; NaN where
            logits are. Zeros without targets.
        is_finite: Whether the logits of either model are free of NaN and positive infinities.
    """

    kl: Tensor
    choices: tuple[Tensor, Tensor]
    losses: tuple[Tensor, Tensor]
    is_finite: tuple[bool, bool]


def compare(reference: Tensor, quantized: Tensor, targets: Tensor | None = None) -> Compared:
    """Compare the softmax distributions of two models row by row.

    ``KL = sum_i p_i (z_i - w_i) - log sum exp z + log sum exp w`` for logits ``z`` of the reference, ``w`` of the
    quantized model and ``p = softmax(z)``. Computed in float32, differences of sums in float64.

    Args:
        reference: Logits of the reference, ``[rows, classes]``.
        quantized: Logits of the quantized model, ``[rows, classes]``.
        targets: Right class of each row, int64 ``[rows]``; None for no losses.
    """
    quantized = quantized.to(reference.device)
    parts = [_compare(*part) for part in _parts(reference, quantized, targets)]
    kl, first, second, loss, other_loss, total, other_total = (
        torch.cat(each).cpu() for each in zip(*parts, strict=True)
    )
    finite = (bool(total.isfinite().all()), bool(other_total.isfinite().all()))
    return Compared(kl, (first, second), (loss, other_loss), finite)


def _parts(reference: Tensor, quantized: Tensor, targets: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    rows = max(1, _NUMBERS_AT_ONCE // max(reference.shape[-1], 1))
    wanted = reference.new_full((len(reference),), -1, dtype=torch.int64) if targets is None else targets
    for start in range(0, len(reference), rows):
        part = slice(start, start + rows)
        yield reference[part].float(), quantized[part].float(), wanted[part].to(reference.device)


def _compare(z: Tensor, w: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    choice, other_choice = z.argmax(-1), w.argmax(-1)
    top, other_top = z.gather(1, choice[:, None]), w.gather(1, other_choice[:, None])
    weights = (z - top).exp_()
    total = weights.sum(-1).double()
    other_total = (w - other_top).exp_().sum(-1).double()
    # Shifted, so that what is summed is small where the models agree.
    mean = _weighted(weights, z - top, w - other_top).double() / total
    log_total, other_log_total = total.log(), other_total.log()
    kl = (mean - log_total + other_log_total).clamp_min(0.0)
    known = targets >= 0
    rows = targets.clamp_min(0)[:, None]
    loss = log_total - (z.gather(1, rows) - top)[:, 0].double()
    other_loss = other_log_total - (w.gather(1, rows) - other_top)[:, 0].double()
    return kl, choice, other_choice, loss.where(known, 0.0), other_loss.where(known, 0.0), total, other_total


def _weighted(weights: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """``sum_i weights_i (z_i - w_i)`` of each row, with nothing for classes that the reference excludes."""
    difference = z.sub_(w)
    found = torch.linalg.vecdot(weights, difference)
    if bool(found.isnan().any()):
        found = torch.linalg.vecdot(weights, difference.where(weights > 0, 0.0))
    return found
