"""What the table of trained quantization says of the figures that it is made of."""

import numpy as np
import pytest

from benchmarks.qat_quality import against, recovered, table
from benchmarks.qat_settings import FLOAT, NEAREST, PTQ, QAT, TRAINED_FLOAT


def answers(right, of=100):
    """So many right answers, the first ones."""
    return np.array([[float(index < right), 1.0] for index in range(of)])


def articles(nats, tokens=10.0):
    """Two articles with so many nats a token."""
    return np.array([[nats * tokens, tokens]] * 2)


@pytest.mark.parametrize(
    ("model", "reference", "nearest", "found", "words"),
    [
        ("sentiment", answers(90), answers(70), answers(85), ", 75% back"),
        ("sentiment", answers(90), answers(70), answers(60), ", -50% back"),
        ("sentiment", answers(90), answers(95), answers(92), ""),
        ("gpt2", articles(np.log(20)), articles(np.log(30)), articles(np.log(22)), ", 80% back"),
        ("gpt2", articles(np.log(20)), articles(np.log(19)), articles(np.log(22)), ""),
    ],
)
def test_what_is_won_back_is_a_part_of_what_rounding_loses(model, reference, nearest, found, words):
    assert recovered(model, reference, nearest, found) == words


def test_loss_is_of_the_same_examples():
    assert against("sentiment", answers(90), answers(88)).startswith("-2.00 pt (")
    assert against("gpt2", articles(2.0), articles(2.0 + np.log(1.5))) == "+50.00 % (+50.00 to +50.00)"


def test_training_is_held_against_the_float_model_that_was_trained_as_long():
    found = {
        ("", FLOAT): {"examples": answers(80), "seconds": 0.0},
        ("", TRAINED_FLOAT): {"examples": answers(90), "seconds": 9.0},
        ("W8A8", NEAREST): {"examples": answers(70), "seconds": 1.0},
        ("W8A8", PTQ): {"examples": answers(75), "seconds": 2.0},
        ("W8A8", QAT): {"examples": answers(80), "seconds": 9.0},
    }
    row = next(line for line in table("sentiment", found).splitlines() if line.startswith("| W8A8"))
    assert row.count("50% back") == 2
