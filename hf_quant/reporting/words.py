"""Numbers as people read them."""

from __future__ import annotations

import math

from hf_quant.evaluation.benchmark_report import Timing
from hf_quant.evaluation.latency import DECODE, FORWARD, PREFILL
from hf_quant.evaluation.report import MetricDrop

ABSENT = "–"
"""What is shown for figures that were not measured."""

TASKS = {FORWARD: "forward", PREFILL: "first token", DECODE: "each next token"}


def bytes_(count: int | None) -> str:
    """Bytes in words, in kB, MB or GB of powers of 1000."""
    if count is None:
        return ABSENT
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{count} bytes"


def seconds(value: float) -> str:
    """A time in words, in s, ms or µs, with three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value / 1e-6)} µs"


def digits(value: float, count: int = 3) -> str:
    """A number rounded to `count` significant digits, without exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, count - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def percent(part: float, places: int = 1) -> str:
    """A part of 1 in percent."""
    return f"{100 * part:.{places}f} %"


def signed_percent(part: float | None) -> str:
    """A part of 1 in percent, with its sign; zero is positive. None is shown as absent."""
    return ABSENT if part is None else f"{100 * part:+.2f} %".replace("-0.00", "+0.00")


def value(number: float) -> str:
    """The value of a metric, with four digits or places."""
    return digits(number, 4) if abs(number) >= 1 else f"{number:.4f}"


def drop(metric: MetricDrop) -> str:
    """The drop of a metric with its interval; in points where the metric is a part of 1."""
    if metric.is_fraction:
        return f"{100 * metric.drop:+.2f} pt ({100 * metric.low:+.2f} to {100 * metric.high:+.2f})"
    return f"{metric.drop:+.4g} ({metric.low:+.4g} to {metric.high:+.4g})"


def relative_drop(metric: MetricDrop) -> str:
    """The drop of a metric with its interval, in percent of the reference's value."""
    if metric.relative_drop is None:
        return ABSENT
    ends = f"{signed_percent(metric.relative_low)} to {signed_percent(metric.relative_high)}"
    return f"{signed_percent(metric.relative_drop)} ({ends})"


def case(task: str, batch: int, length: int) -> str:
    """A task at a size in words, such as ``"first token, 1 x 128"``."""
    return f"{TASKS.get(task, task)}, {batch} x {length}"


def timing(entry: Timing) -> str:
    """Median and quartiles of a time, in words."""
    low, high = seconds(entry.seconds.low_quartile), seconds(entry.seconds.high_quartile)
    return f"{seconds(entry.seconds.median)} ({low} to {high})"


def sentence(note: str) -> str:
    """A note as a sentence, with a capital and a full stop."""
    return f"{note[:1].upper()}{note[1:]}."


def shortened(text: str, length: int) -> str:
    """A text on one line, cut in the middle if it is longer than `length`."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[: length - 1 - half]}…{text[len(text) - half :]}"
