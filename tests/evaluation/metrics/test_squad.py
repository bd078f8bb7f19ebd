"""Exact match and F1 of answers, by the rules of SQuAD."""

import pytest

from hf_quant.evaluation.metrics.squad import Squad, answer_scores


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("an  apple", ["Apple"], 1, 1),
        ("in Paris, France", ["Paris"], 0, 2 * (1 / 3 * 1) / (1 / 3 + 1)),
        ("Paris", ["London", "Paris in France", "Paris"], 1, 1),
        ("blue", ["red"], 0, 0),
        ("red red", ["red"], 0, 2 / 3),
        ("", [], 1, 1),
        ("", [""], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("the", ["a"], 1, 1),
        ("theory", ["ory"], 0, 0),
    ],
)
def test_answers_are_normalised_and_the_best_right_one_counts(answer, right, exact, f1):
    assert answer_scores(answer, right) == (exact, pytest.approx(f1))


def test_scores_are_means():
    found = Squad().compute(predictions=["Paris", "no"], references=[["paris"], ["yes"]])
    assert found == {"exact_match": 0.5, "f1": 0.5}
