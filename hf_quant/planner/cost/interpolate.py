"""Times at shapes that were not measured, from those that were, and how far off that is."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError
from hf_quant.planner.cost.table import Cell, KernelTable


@dataclass(frozen=True)
class Line:
    """Time of a linear at one number of tokens, in milliseconds: a fixed part for the call, and a part for each weight.

    ``milliseconds = call + per_weight * inputs * outputs``; bytes and operations of one scheme at one number of tokens
    both grow with the weights, so that one slope covers both.
    """

    call: float
    per_weight: float

    def at(self, inputs: int, outputs: int) -> float:
        """Milliseconds of a linear with `inputs` input and `outputs` output channels."""
        return self.call + self.per_weight * inputs * outputs


@dataclass(frozen=True)
class Error:
    """Relative errors of predicted times, for shapes that were left out of the fit.

    Args:
        median: Median of the absolute relative errors.
        worst: Largest absolute relative error.
        count: Number of predictions; 0 where too few shapes were measured to leave one out.
    """

    median: float
    worst: float
    count: int


class Interpolation:
    """Milliseconds of any linear under any scheme that is measured or resembles a measured one.

    A cell that was measured is given as it is. Between shapes a `Line` is fitted to relative errors, between numbers of
    tokens times are interpolated linearly, and beyond them extended along the last two.
    """

    def __init__(self, table: KernelTable):
        self.table = table
        self._measured = {(c.scheme, c.inputs, c.outputs, c.tokens): c.milliseconds for c in table.cells}
        by_row: dict[tuple[Scheme | None, int], list[Cell]] = {}
        for cell in table.cells:
            by_row.setdefault((cell.scheme, cell.tokens), []).append(cell)
        self._lines = {key: fitted(cells) for key, cells in by_row.items()}
        self._by_row = by_row
        self._tokens: dict[Scheme | None, list[int]] = {
            scheme: sorted(tokens for other, tokens in by_row if other == scheme) for scheme in table.schemes()
        }

    def milliseconds(self, scheme: Scheme | None, inputs: int, outputs: int, tokens: int) -> float:
        """Milliseconds of one call of a linear.

        Args:
            scheme: Scheme of the linear; None for float32.
            inputs: Input channels of the linear.
            outputs: Output channels of the linear.
            tokens: Rows of the input (tokens x batch).

        Raises:
            ConfigError: No scheme with the same bits and kind of input was measured.
        """
        relative = self.relative(scheme)
        found = self._measured.get((relative, inputs, outputs, tokens))
        if found is not None:
            return found
        known = self._tokens[relative]

        def at(count: int) -> float:
            exact = self._measured.get((relative, inputs, outputs, count))
            return self._lines[relative, count].at(inputs, outputs) if exact is None else exact

        return between(known, at, tokens)

    def relative(self, scheme: Scheme | None) -> Scheme | None:
        """The measured scheme that takes `scheme`'s place: itself, or one with the same bits and kind of input.

        Raises:
            ConfigError: No measured scheme is like it; those that were measured are listed.
        """
        if scheme in self._tokens:
            return scheme
        assert scheme is not None
        for nearness in (_same_layout, _same_bits):
            for other in self._tokens:
                if other is not None and nearness(other, scheme):
                    return other
        listed = ", ".join(str(other) for other in self._tokens if other is not None)
        raise ConfigError(
            f"the kernel table has no times like those of {scheme}; it has {listed}. Measure with schemes=[...]"
        )

    def is_slower_than_float(self, scheme: Scheme, inputs: int, outputs: int, tokens: int) -> bool:
        """Whether quantizing a linear of this shape makes it slower than float32 there."""
        ours = self.milliseconds(scheme, inputs, outputs, tokens)
        return ours > self.milliseconds(None, inputs, outputs, tokens)

    def require_faster(self, scheme: Scheme, inputs: int, outputs: int, tokens: int) -> None:
        """Raise ConfigError if a scheme is slower than float32 at this shape, with both times."""
        ours = self.milliseconds(scheme, inputs, outputs, tokens)
        plain = self.milliseconds(None, inputs, outputs, tokens)
        if ours > plain:
            raise ConfigError(
                f"{scheme} takes {ours:.3g} ms for {inputs}x{outputs} at {tokens} tokens, float32 {plain:.3g} ms: "
                "choose another scheme for speed, or allow slower ones for size"
            )

    def error(self) -> Error:
        """Cross-validated errors: each shape predicted from the others, wherever two others remain to fit."""
        errors = []
        for cells in self._by_row.values():
            for index, left_out in enumerate(cells):
                others = [*cells[:index], *cells[index + 1 :]]
                if len(others) < 2:
                    continue
                predicted = fitted(others).at(left_out.inputs, left_out.outputs)
                errors.append(abs(predicted / left_out.milliseconds - 1))
        if not errors:
            return Error(0.0, 0.0, 0)
        return Error(statistics.median(errors), max(errors), len(errors))


def fitted(cells: Sequence[Cell]) -> Line:
    """The line of least relative squares through cells of one scheme and number of tokens, no part of it below 0."""
    weights = [cell.inputs * cell.outputs for cell in cells]
    times = [cell.milliseconds for cell in cells]
    # Each divided by its time: minimise the sum of (call * u + slope * v - 1) ** 2.
    u = [1 / time for time in times]
    v = [weight / time for weight, time in zip(weights, times, strict=True)]
    uu, uv, vv = (sum(a * b for a, b in zip(x, y, strict=True)) for x, y in ((u, u), (u, v), (v, v)))
    determinant = uu * vv - uv * uv
    alone = Line(0.0, sum(v) / vv)
    if determinant <= 1e-9 * uu * vv:
        return alone  # one shape, or several of one size: times in proportion to the weights
    call = (sum(u) * vv - sum(v) * uv) / determinant
    slope = (sum(v) * uu - sum(u) * uv) / determinant
    if call < 0:
        return alone
    return Line(call, slope) if slope >= 0 else Line(sum(u) / uu, 0.0)


def between(known: Sequence[int], at: Callable[[int], float], count: int) -> float:
    """Interpolate a time linearly in the number of tokens; beyond the measured ones extrapolate, never falling."""
    place = bisect.bisect_left(known, count)
    if place < len(known) and known[place] == count:
        return at(count)
    if place == 0:
        # Fewer tokens than were measured take at most as long.
        return at(known[0])
    if place < len(known):
        low, high = known[place - 1], known[place]
        share = (count - low) / (high - low)
        return at(low) + share * (at(high) - at(low))
    last = known[-1]
    if len(known) == 1:
        return at(last) * count / last
    before = known[-2]
    slope = max(0.0, (at(last) - at(before)) / (last - before))
    return at(last) + slope * (count - last)


def _inputs(scheme: Scheme) -> tuple[object, ...]:
    return () if scheme.input is None else (scheme.input.bits, scheme.input.dynamic)


def _same_bits(one: Scheme, other: Scheme) -> bool:
    same = (one.weight.format, one.weight.bits) == (other.weight.format, other.weight.bits)
    return same and _inputs(one) == _inputs(other)


def _same_layout(one: Scheme, other: Scheme) -> bool:
    grouped = one.weight.granularity == "group", other.weight.granularity == "group"
    return _same_bits(one, other) and grouped[0] == grouped[1]
