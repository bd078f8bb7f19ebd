"""The interval of a difference of two shares on the same examples, such as two accuracies."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import ndtri


def score_interval(to_wrong: int, to_right: int, examples: int, confidence: float) -> tuple[float, float]:
    """Lower and upper end of Tango's score interval for ``(to_wrong - to_right) / examples``.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design"
    (1998). It holds the truth as often as it says also where few answers have flipped, or none, of which a bootstrap
    only ever sees those few.

    Args:
        to_wrong: Number of examples that were right and became wrong.
        to_right: Number of examples that were wrong and became right.
        examples: Number of all examples, at least 1.
        confidence: Confidence of the interval, above 0 and below 1.
    """
    quantile = float(-ndtri((1 - confidence) / 2))
    seen = (to_wrong - to_right) / examples

    def score(difference: float) -> float:
        """Standard errors by which the observed difference lies above an assumed one."""
        # The likeliest share of `to_right` if that is the difference.
        b = (2 * examples - to_wrong + to_right) * difference - to_wrong - to_right
        c = -to_right * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 8 * examples * c, 0.0)) - b) / (4 * examples)
        variance = examples * (2 * share + difference * (1 - difference))
        above = to_wrong - to_right - examples * difference
        if variance <= 0:
            return math.copysign(math.inf, above) if above else 0.0
        return above / math.sqrt(variance)

    def end(outermost: float, wanted: float) -> float:
        # The score falls from one outermost difference to the other; where it never gets there, that is the end.
        if abs(score(outermost)) <= abs(wanted) or outermost == seen:
            return outermost
        # brentq takes no infinities.
        found: float = brentq(lambda difference: max(min(score(difference), 1e6), -1e6) - wanted, outermost, seen)
        return found

    return end(-1.0, quantile), end(1.0, -quantile)
