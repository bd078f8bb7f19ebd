"""Statistics of paired results: both models have answered the same examples. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

from hf_quant.errors import EvaluationError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_NUMBERS_AT_ONCE = 2**22
"""Number of entries in the largest matrix of draws: 32 MB of int64."""


@dataclass(frozen=True)
class Bootstrap:
    """Number, seed and confidence of bootstrap resamples of examples.

    Args:
        resamples: Number of resamples.
        seed: Seed of the draws; the same seed and number of examples give the same resamples, for every metric.
        confidence: Share of all experiments whose interval is to hold the truth, above 0 and below 1.

    Raises:
        EvaluationError: A number is out of range.
    """

    resamples: int = 2000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, least in (("resamples", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise EvaluationError(f"{name} is a whole number from {least} on, not {value!r}")
        if not 0 < self.confidence < 1:
            raise EvaluationError(f"confidence lies between 0 and 1, such as 0.95, not {self.confidence!r}")

    def draws(self, examples: int) -> Iterator[Counts]:
        """Indices of the examples of each resample, in parts int64 ``[some, examples]`` of `resamples` in all."""
        generator = np.random.default_rng(self.seed)
        rows = max(1, _NUMBERS_AT_ONCE // max(examples, 1))
        for start in range(0, self.resamples, rows):
            count = min(rows, self.resamples - start)
            yield generator.integers(examples, size=(count, examples))

    def sums(self, contributions: Floats) -> Floats:
        """Sums over the examples of each resample, from contributions ``[examples, k]`` to ``[resamples, k]``."""
        parts = []
        for drawn in self.draws(len(contributions)):
            parts.append(multiplicities(drawn) @ contributions)
        return np.concatenate(parts)


def multiplicities(draws: Counts) -> Floats:
    """How often each example is in each resample: indices ``[resamples, examples]`` to counts of the same shape."""
    rows, examples = draws.shape
    flat = draws + examples * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * examples).reshape(rows, examples).astype(np.float64)


def leave_one_out(contributions: Floats) -> Floats:
    """Sums over all examples but one, for each that is left out, ``[examples, k]``, for the jackknife."""
    left: Floats = contributions.sum(0, keepdims=True) - contributions
    return left


def interval(
    point: float, replicates: Floats, jackknife: Floats | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Lower and upper end of the bias-corrected and accelerated (BCa) bootstrap interval of a statistic.

    Efron, "Better bootstrap confidence intervals" (1987). The bias ``z0`` is the normal quantile of the part of
    replicates below `point`, ties counting half; the acceleration ``a`` is a sixth of the skewness of the jackknife
    values. The ends are the quantiles ``Phi(z0 + (z0 + z) / (1 - a (z0 + z)))`` of the replicates.

    Args:
        point: Value of the statistic for the data.
        replicates: Values of the statistic for each resample, ``[resamples]``; those not finite are left out.
        jackknife: Values of the statistic for the data without each example, ``[examples]``; without acceleration if
            None or if any is not finite.
        confidence: Confidence of the interval, above 0 and below 1.

    Returns:
        Lower and upper end; `point` twice where all replicates are equal or there are none.
    """
    replicates = replicates[np.isfinite(replicates)]
    if len(replicates) == 0 or replicates.min() == replicates.max():
        return point, point
    below = (replicates < point).mean() + (replicates == point).mean() / 2
    # A point outside all replicates has no finite quantile; the outermost that this many can tell stands for it.
    edge = 0.5 / len(replicates)
    bias = ndtri(np.clip(below, edge, 1 - edge))
    shifted = bias + ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    ranks = ndtr(bias + shifted / (1 - _acceleration(jackknife) * shifted))
    low, high = np.quantile(replicates, ranks)
    return float(low), float(high)


def _acceleration(jackknife: Floats | None) -> float:
    if jackknife is None or not np.isfinite(jackknife).all():
        return 0.0
    centred = jackknife.mean() - jackknife
    spread = (centred**2).sum()
    scale = 6 * spread**1.5
    return float((centred**3).sum() / scale) if scale > 0 else 0.0


def interval_of_sums(
    statistic: Callable[[Floats], Floats], contributions: Floats, bootstrap: Bootstrap
) -> tuple[float, float, float]:
    """Value of a statistic of sums over examples, such as a ratio of two, and the ends of its interval.

    Args:
        statistic: Function from sums ``[..., k]`` to values ``[...]``.
        contributions: What each example adds to the sums, ``[examples, k]``.
        bootstrap: Number, seed and confidence of the resamples.
    """
    point = float(statistic(contributions.sum(0)))
    replicates = statistic(bootstrap.sums(contributions))
    jackknife = statistic(leave_one_out(contributions)) if len(contributions) > 1 else None
    return point, *interval(point, replicates, jackknife, bootstrap.confidence)


def exchange_test(differences: Counts) -> float:
    """Two-sided p-value of the exact test that exchanges the results of two models, example by example.

    If the models are equally good, each example's difference, answers that became wrong less those that became right,
    is as likely with the other sign. p is the part of all assignments of signs whose sum is as far from zero as the
    one seen. With one answer an example this is McNemar's exact test: a binomial test of the flips.

    Args:
        differences: Answers of each example that became wrong less those that became right, int64 ``[examples]``.
    """
    sizes = np.abs(differences[differences != 0])
    if len(sizes) == 0:
        return 1.0
    seen = abs(int(differences.sum()))
    if sizes.max() == 1:
        return float(binomtest((len(sizes) + seen) // 2, len(sizes)).pvalue)
    # The distribution of the sum by its characteristic function, which is a product of cosines.
    period = 2 * int(sizes.sum()) + 1
    waves = 2 * np.pi * np.arange(period // 2 + 1) / period
    product = np.ones(len(waves))
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        product *= np.cos(waves * size) ** count
    masses = np.fft.irfft(product, n=period)
    # The mass of -s is at index `period - s`.
    tail = masses[seen : period - seen + 1] if seen else masses
    # Below what rounding leaves, p is at least that of all signs alike.
    return float(np.clip(tail.sum(), 2.0 ** (1 - len(sizes)), 1.0))
