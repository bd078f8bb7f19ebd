"""A report that comes from anyone is read as what it says it is, or refused by name."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.from_json import from_json


@dataclass(frozen=True)
class Part:
    name: str
    weight: float | None = None


@dataclass(frozen=True)
class Whole:
    count: int
    ratio: float
    parts: tuple[Part, ...]
    first: Part
    kernels: dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)
    good: bool = True


WHOLE = Whole(3, 2.0, (Part("a", 1.5), Part("b")), Part("c"), {"native": 2}, {"x": [1, None]}, False)
PLAIN = {
    "count": 3,
    "ratio": 2,
    "parts": [{"name": "a", "weight": 1.5}, {"name": "b", "weight": None}],
    "first": {"name": "c"},
    "kernels": {"native": 2},
    "options": {"x": [1, None]},
    "good": False,
}


def test_what_json_holds_comes_back():
    assert from_json(Whole, json.loads(json.dumps(PLAIN)), "it") == WHOLE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": "3"}, "it.count is '3', not a int"),
        ({"count": True}, "it.count is True"),
        ({"count": 1.5}, "it.count is 1.5"),
        ({"ratio": [1]}, r"it.ratio is \[1\], not a float"),
        ({"parts": {}}, "it.parts is {}, not a list"),
        ({"parts": [3]}, r"it.parts\[0\] is 3, not an object"),
        ({"parts": [{"name": "a", "wait": 1}]}, "did you mean 'weight'"),
        ({"first": {}}, "it.first has no 'name'"),
        ({"first": {"name": "c", "weight": "heavy"}}, "it.first.weight is 'heavy'"),
        ({"kernels": []}, r"it.kernels is \[\], not an object"),
        ({"kernels": {"native": "two"}}, "it.kernels.native"),
        ({"more": 1}, "no key 'more'"),
        ({"good": 1}, "it.good is 1, not a bool"),
        ({"count": "x" * 1000}, r"\.\.\., not a int"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(EvaluationError, match=message):
        from_json(Whole, {**PLAIN, **changes}, "it")


def test_what_is_no_object_is_refused():
    with pytest.raises(EvaluationError, match="it is None, not an object"):
        from_json(Whole, None, "it")
