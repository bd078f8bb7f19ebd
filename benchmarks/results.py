"""What was measured of a model in a variant, as a row of a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.timing import median_ratio

HEADER = ("model", "variant", "measure", "ms", "x float32", "error", "MB per token", "of bandwidth")


@dataclass(frozen=True)
class Result:
    """One row.

    Args:
        measure: What was done; the time of decoding is that of one token.
        seconds: Median.
        ratio: Median over rounds of float32's time to this one; None without float32.
        read: Bytes of weights that one token reads.
        of_bandwidth: Share of the bandwidth that decoding reads them with; None for the rest.
        error: Relative distance of the output from float32's; None where there is none to compare with.
    """

    model: str
    variant: str
    measure: str
    seconds: float
    ratio: float | None
    read: float
    of_bandwidth: float | None
    error: float | None = None

    def with_error(self, output: np.ndarray, expected: np.ndarray | None) -> Result:
        """The same, with the distance of `output`."""
        if expected is None or output.shape != expected.shape:
            return self
        return replace(self, error=float(np.linalg.norm(output - expected) / np.linalg.norm(expected)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def result_of(
    model: str,
    variant: str,
    measure: str,
    seconds: Sequence[float],
    reference: Sequence[float] | None,
    read: float,
    bandwidth: float,
) -> Result:
    """A row of the times of one variant and of float32, round by round."""
    median = statistics.median(seconds)
    return Result(
        model=model,
        variant=variant,
        measure=measure,
        seconds=median,
        ratio=median_ratio(reference, seconds) if reference else None,
        read=read,
        of_bandwidth=read / median / bandwidth if measure.startswith("decode") else None,
    )


def row(result: Result) -> str:
    """A line of the table."""
    values = (
        result.model,
        result.variant,
        result.measure,
        f"{1e3 * result.seconds:.4g}",
        "" if result.ratio is None else f"{result.ratio:.2f}",
        "" if result.error is None else f"{result.error:.1e}",
        f"{result.read / 1e6:.1f}" if result.of_bandwidth is not None else "",
        "" if result.of_bandwidth is None else f"{result.of_bandwidth:.0%}",
    )
    return f"| {' | '.join(values)} |"
