"""Whole entities, by CoNLL's rules."""

import pytest

from hf_quant.evaluation.metrics.entity_f1 import EntityF1, entities


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-PER I-PER O B-LOC", {("PER", 1, 2), ("LOC", 4, 4)}),
        ("B-PER B-PER I-PER", {("PER", 0, 0), ("PER", 1, 2)}),
        ("I-PER I-PER O I-PER", {("PER", 0, 1), ("PER", 3, 3)}),
        ("B-PER I-LOC I-LOC", {("PER", 0, 0), ("LOC", 1, 2)}),
        ("S-PER S-PER U-LOC", {("PER", 0, 0), ("PER", 1, 1), ("LOC", 2, 2)}),
        ("B-PER I-PER E-PER I-PER", {("PER", 0, 2), ("PER", 3, 3)}),
        ("B-PER L-PER B-PER", {("PER", 0, 1), ("PER", 2, 2)}),
        ("PER PER O LOC", {("PER", 0, 1), ("LOC", 3, 3)}),
        ("O O", set()),
        ("", set()),
    ],
)
def test_entities_begin_and_end_where_conll_says(tags, found):
    assert entities(tags.split()) == found


def test_an_entity_counts_if_its_type_and_both_ends_are_right():
    right = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    said = [["B-PER", "I-PER", "O", "B-PER"], ["B-ORG", "I-ORG"]]
    found = EntityF1().compute(predictions=said, references=right)
    assert found == {"f1": pytest.approx(1 / 3), "precision": pytest.approx(1 / 3), "recall": pytest.approx(1 / 3)}


def test_where_there_are_no_entities_it_is_zero():
    assert EntityF1().compute(predictions=[["O"]], references=[["O"]]) == {"f1": 0, "precision": 0, "recall": 0}
