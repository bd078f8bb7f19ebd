"""How alike two models answer, from the results of all examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_quant.evaluation.report import Agreement
from hf_quant.evaluation.statistics import Bootstrap, exchange_test, interval_of_sums
from hf_quant.evaluation.tasks.base import Result


def agreement(results: Sequence[Result], unit: str, bootstrap: Bootstrap) -> Agreement:
    """How alike two models answer: divergence with its interval, equal answers, flips, and McNemar's test.

    Args:
        results: Results of both models, at least one.
        unit: What is compared, in words: ``"examples"`` or ``"tokens"``.
        bootstrap: Number, seed and confidence of the resamples of examples.
    """
    units = np.array([result.units for result in results])
    kl, same, to_wrong, to_right = (_column(results, name) for name in ("kl", "same", "to_wrong", "to_right"))
    found: dict[str, Any] = {}
    # An infinite divergence, of a class that one model excludes, has no mean that would say anything.
    if kl is not None and np.isfinite(kl).all():
        contributions = np.stack([kl, units.astype(float)], axis=1)
        mean, low, high = interval_of_sums(lambda sums: sums[..., 0] / sums[..., 1], contributions, bootstrap)
        found |= {"kl_mean": mean, "kl_low": low, "kl_high": high}
    if same is not None:
        found["top1_agreement"] = float(same.sum() / units.sum())
    if to_wrong is not None and to_right is not None:
        found |= {"flips_to_wrong": int(to_wrong.sum()), "flips_to_right": int(to_right.sum())}
        found["mcnemar_p"] = exchange_test((to_wrong - to_right).astype(np.int64))
    return Agreement(unit=unit, compared=int(units.sum()), **found)


def _column(results: Sequence[Result], name: str) -> Any:
    values = [getattr(result, name) for result in results]
    return None if None in values else np.array(values)
