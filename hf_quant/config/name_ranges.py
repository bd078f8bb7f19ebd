"""Many names written as few, with ranges of numbers: ``layers.{0-3,7}.mlp``."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from hf_quant.errors import ConfigError, PlanError

_Value = TypeVar("_Value")
_Product = tuple[tuple[int, ...], ...]

_NUMBER = "(?:0|[1-9][0-9]{0,8})"
_RANGES = re.compile(rf"\{{({_NUMBER}(?:-{_NUMBER})?(?:,{_NUMBER}(?:-{_NUMBER})?)*)\}}")
_PART = re.compile(rf"(?<![^.]){_NUMBER}(?![^.])")
_NO_PATTERN = re.compile(r"(?!re:)[^*?\[\]{}]+")
_MOST_PARTS = 8

FEW = 32
"""Names of one kind, with one value, up to which they are written one by one."""
MOST_CHARACTERS = 2**26
"""Characters of names, each counted as 64 at least, up to which those in a file are expanded."""
MOST_NUMBERS = 10_000
"""Numbers that the ranges of one pattern may have."""


def with_ranges(names: Iterable[str]) -> list[str]:
    """Names with ranges that stand for just these names, each once; few, and in the order of the first of each kind.

    Args:
        names: Names without braces. Two are of a kind if they differ only in numbers between dots.
    """
    return [
        _joined(kind, map(_written, product))
        for kind, found in _kinds(names).items()
        for product in _products(sorted(found))
    ]


def kind_of(name: str) -> tuple[str, ...]:
    """What a name has in common with those that differ from it only in numbers between dots."""
    return _parts(name)[0]


def in_short(names: Iterable[str]) -> list[str]:
    """Names with ranges for people, one for each kind; numbers that depend on those before them are ``*``."""
    short = []
    for kind, found in _kinds(names).items():
        first, *others = _products(sorted(found))
        texts = [_written(numbers) for numbers in first]
        if others:
            columns = [tuple(sorted(set(column))) for column in zip(*found, strict=True)]
            texts = [_written(columns[0]), *(_written(each) if len(each) == 1 else "*" for each in columns[1:])]
        short.append(_joined(kind, texts))
    return short


def differing(values: Mapping[str, _Value]) -> list[dict[_Value, list[str]]]:
    """For each kind of names of which not all have one value: value to the names that have it."""
    kinds: dict[tuple[str, ...], dict[_Value, list[str]]] = {}
    for name, value in values.items():
        kinds.setdefault(kind_of(name), {}).setdefault(value, []).append(name)
    return [found for found in kinds.values() if len(found) > 1]


def expanded(patterns: Iterable[str]) -> dict[str, list[str]]:
    """Names with ranges to the names that they stand for, in ascending order.

    Raises:
        ConfigError: One has no ranges or malformed ones; or they stand for more than a million names, or fewer that are
            long, which is found out before any name is made.
    """
    split = {pattern: _split(pattern) for pattern in patterns}
    total = 0
    for pattern, (literals, numbers) in split.items():
        if not numbers or any(brace in literal for literal in literals for brace in "{}"):
            raise ConfigError(f"{pattern[:80]!r} is not a name with ranges, such as layers.{{0-3,7}}.mlp")
        cost = max(64, len(pattern))
        for ranges in numbers:
            cost *= sum(map(len, ranges))
            if total + cost > MOST_CHARACTERS:
                raise ConfigError(
                    f"{pattern[:80]!r} stands for more names than a model has modules: save the checkpoint again"
                )
        total += cost
    return {
        pattern: [_joined(literals, map(str, chosen)) for chosen in itertools.product(*map(_flat, numbers))]
        for pattern, (literals, numbers) in split.items()
    }


def folded(values: Mapping[str, _Value]) -> tuple[dict[str, _Value], dict[str, _Value]]:
    """What is said of names, where the same is said of many of a kind with ranges; `unfolded` is the inverse.

    Args:
        values: Names, or patterns of a plan, to what is said of them. Patterns stay as they are.

    Returns:
        Names, and names with ranges, both to what is said of them.
    """
    kinds: dict[tuple[tuple[str, ...], _Value], list[str]] = {}
    for name, value in values.items():
        if _NO_PATTERN.fullmatch(name):
            kinds.setdefault((kind_of(name), value), []).append(name)
    many = {key: names for key, names in kinds.items() if len(names) > FEW}
    ranges = {pattern: value for (_, value), names in many.items() for pattern in with_ranges(names)}
    # Numbers that are no range stand alone.
    ranges = {pattern: value for pattern, value in ranges.items() if has_ranges(pattern)}
    gone = {name for names in expanded(ranges).values() for name in names}
    return {name: value for name, value in values.items() if name not in gone}, ranges


def unfolded(plain: Mapping[str, _Value], ranges: Mapping[str, _Value]) -> dict[str, _Value]:
    """What `folded` was given, but for the order.

    Raises:
        ConfigError: As from `expanded`; or there are two entries for one name.
    """
    values = dict(plain)
    for pattern, names in expanded(ranges).items():
        for name in names:
            if name in values:
                raise ConfigError(f"there are two entries for {name!r}, one of them {pattern[:80]!r}")
            values[name] = ranges[pattern]
    return values


def has_ranges(pattern: str) -> bool:
    """Whether a name or glob has ranges; other braces are characters like any other."""
    return not pattern.startswith("re:") and _RANGES.search(pattern) is not None


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that a name or glob with ranges matches.

    Raises:
        ConfigError: Numbers of a range do not ascend, or are too many.
        PlanError: Some names match, but none with one of the numbers.
    """
    literals, numbers = _split(pattern)
    globs = [re.sub(r"\A\(\?s:(.*)\)\\[zZ]\Z", r"\1", fnmatch.translate(text), flags=re.DOTALL) for text in literals]
    asked = [list(_flat(ranges)) for ranges in _bounded(numbers, pattern)]
    expression = re.compile(_joined(globs, (f"({'|'.join(map(str, each))})" for each in asked)), re.DOTALL)
    found = {name: match for name in names if (match := expression.fullmatch(name)) is not None}
    for index, each in enumerate(asked):
        missing = set(each) - {int(match[index + 1]) for match in found.values()}
        if found and missing:
            raise PlanError(f"pattern {pattern!r} matches modules, but none with {_written(tuple(sorted(missing)))}")
    return list(found)


def as_expression(text: str) -> str:
    """A regular expression in which ranges are written as numbers to choose from."""

    def choice(match: re.Match[str]) -> str:
        (ranges,) = _bounded([_read(match[1], text)], text)
        return f"(?:{'|'.join(map(str, _flat(ranges)))})"

    return _RANGES.sub(choice, text)


def _parts(name: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    literals, numbers = _PART.split(name), _PART.findall(name)
    return ((name,), ()) if len(numbers) > _MOST_PARTS else (tuple(literals), tuple(map(int, numbers)))


def _kinds(names: Iterable[str]) -> dict[tuple[str, ...], set[tuple[int, ...]]]:
    kinds: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
    for name in names:
        kind, numbers = _parts(name)
        kinds.setdefault(kind, set()).add(numbers)
    return kinds


def _products(found: Sequence[tuple[int, ...]]) -> Iterator[_Product]:
    """Disjoint products of ascending numbers, which together are the ascending `found`."""
    if not found[0]:
        yield ()
        return
    rests: dict[int, list[tuple[int, ...]]] = {}
    for first, *rest in found:
        rests.setdefault(first, []).append(tuple(rest))
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for first, others in rests.items():
        alike.setdefault(tuple(others), []).append(first)
    for same, firsts in alike.items():
        for product in _products(same):
            yield (tuple(firsts), *product)


def _joined(literals: Sequence[str], between: Iterable[str]) -> str:
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(literals, between, fillvalue="")))


def _written(numbers: tuple[int, ...]) -> str:
    """``"7"`` for one number, else ranges in braces."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    text = ",".join("-".join(map(str, run)) for run in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"


def _split(pattern: str) -> tuple[list[str], list[list[range]]]:
    parts = _RANGES.split(pattern)
    return parts[::2], [_read(text, pattern) for text in parts[1::2]]


def _read(text: str, pattern: str) -> list[range]:
    ranges: list[range] = []
    for item in text.split(","):
        low, _, high = item.partition("-")
        ranges.append(range(int(low), int(high or low) + 1))
        if not ranges[-1] or (len(ranges) > 1 and ranges[-2].stop > ranges[-1].start):
            raise ConfigError(f"numbers of ranges ascend, as in {{0-3,7}}; those of {pattern[:80]!r} do not")
    return ranges


def _flat(ranges: Iterable[range]) -> Iterator[int]:
    return itertools.chain.from_iterable(ranges)


def _bounded(numbers: list[list[range]], pattern: str) -> list[list[range]]:
    if any(sum(map(len, ranges)) > MOST_NUMBERS for ranges in numbers):
        raise ConfigError(f"{pattern[:80]!r} has a range of more than {MOST_NUMBERS:,} numbers")
    return numbers
