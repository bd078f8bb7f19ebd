"""Losses of distillation, against their formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import ConfigError
from hf_quant.qat.distillation import (
    Distillation,
    hidden_loss,
    kept_positions,
    logits_loss,
    numbers_loss,
    outputs_loss,
    several_labels_loss,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(temperature=st.floats(0.5, 8), seed=st.integers(0, 10**6))
def test_the_loss_of_logits_and_its_gradient_are_those_of_the_formula(temperature, seed):
    student, teacher = drawn(5, 7, seed=seed).requires_grad_(), drawn(5, 7, seed=seed + 1) * 2
    loss = logits_loss(student, teacher, temperature)
    q, p = ((x.detach().double() / temperature).softmax(-1) for x in (student, teacher))
    assert loss.item() == pytest.approx(float((p * (p / q).log()).sum() / 5) * temperature**2, rel=1e-4, abs=1e-6)
    loss.backward()
    assert torch.allclose(student.grad.double(), (q - p) * temperature / 5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(temperature=st.floats(0.5, 8), seed=st.integers(0, 10**6))
def test_the_loss_of_several_labels_and_its_gradient_are_those_of_the_formula(temperature, seed):
    student, teacher = drawn(5, 7, seed=seed).requires_grad_(), drawn(5, 7, seed=seed + 1) * 2
    loss = several_labels_loss(student, teacher, temperature)
    q, p = ((x.detach().double() / temperature).sigmoid() for x in (student, teacher))
    expected = float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() / 5) * temperature**2
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    loss.backward()
    assert torch.allclose(student.grad.double(), (q - p) * temperature / 5, atol=1e-6)


def test_the_loss_of_several_labels_is_finite_where_they_are_certain():
    student, teacher = torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, -200.0]])
    assert several_labels_loss(student, teacher, 1.0).item() == pytest.approx(200)


def test_numbers_are_compared_as_they_are():
    student, teacher = drawn(5, 3), drawn(5, 3, seed=1)
    assert numbers_loss(student, teacher).item() == pytest.approx(float(((student - teacher) ** 2).sum() / 15))


def test_the_loss_of_outputs_is_that_of_what_they_mean():
    student, teacher = drawn(5, 3), drawn(5, 3, seed=1)
    assert torch.equal(outputs_loss(student, teacher, 2.0, "regression"), numbers_loss(student, teacher))
    several = outputs_loss(student, teacher, 2.0, "multi_label_classification")
    assert torch.equal(several, several_labels_loss(student, teacher, 2.0))
    for problem in (None, "single_label_classification"):
        assert torch.equal(outputs_loss(student, teacher, 2.0, problem), logits_loss(student, teacher, 2.0))
    assert torch.equal(
        outputs_loss(student[:, :1], teacher[:, :1], 2.0, None), numbers_loss(student[:, :1], teacher[:, :1])
    )


def test_a_student_like_its_teacher_has_no_loss():
    logits, states = drawn(4, 6), [drawn(2, 3, 4, seed=index) for index in range(3)]
    assert logits_loss(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert hidden_loss(states, states, None).item() == 0


@pytest.mark.parametrize("problem", [None, "regression", "multi_label_classification"])
def test_outputs_of_no_position_give_zero(problem):
    assert outputs_loss(torch.empty(0, 6), torch.empty(0, 6), 2.0, problem).item() == 0


def test_the_loss_of_hidden_states_is_relative_to_the_teacher_and_skips_padding():
    teacher = [drawn(2, 3, 4, seed=index) * 10**index for index in range(3)]
    student = [states * 1.1 for states in teacher]
    assert hidden_loss(student, teacher, None).item() == pytest.approx(0.01, rel=1e-4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    for states in student:
        states[~mask] = 1e6
    assert hidden_loss(student, teacher, mask).item() == pytest.approx(0.01, rel=1e-4)


def test_logits_count_where_labels_do():
    logits = drawn(2, 3, 5)
    labels = torch.tensor([[1, -100, 2], [-100, 3, -100]])
    part, keep = kept_positions(logits, labels, None, shifts=False)
    assert part is None and keep.tolist() == [[True, False, True], [False, True, False]]
    part, keep = kept_positions(logits, labels, None, shifts=True)
    assert logits[:, part].shape == (2, 2, 5) and keep.tolist() == [[False, True], [True, False]]
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert kept_positions(logits, None, mask, shifts=False)[1].tolist() == mask.bool().tolist()
    # One label for each row: a classifier.
    assert kept_positions(logits[:, 0], labels[:, 0], mask, shifts=False)[1].tolist() == [True, True]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": math.inf},
        {"logits": -1},
        {"labels": "1"},
        {"logits": 0},
        {"int8_teacher": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match=r"must be|True or False"):
        Distillation(**options)
