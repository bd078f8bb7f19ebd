"""Divergences, choices and losses against torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from hf_quant.evaluation import distributions
from hf_quant.evaluation.distributions import compare


def logits(rows, classes, seed, scale=3.0):
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def direct(reference, quantized):
    """KL in nats, in float64."""
    first, second = (log_softmax(each.double(), -1) for each in (reference, quantized))
    return kl_div(second, first, reduction="none", log_target=True).sum(-1)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 99), st.sampled_from([0.01, 1.0, 30.0]))
@settings(deadline=None)
def test_divergences_choices_and_losses_are_torchs(rows, classes, seed, scale):
    reference = logits(rows, classes, seed, scale)
    quantized = reference + logits(rows, classes, seed + 1, 0.1 * scale)
    targets = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    found = compare(reference, quantized, targets)
    torch.testing.assert_close(found.kl, direct(reference, quantized), rtol=1e-4, atol=1e-6)
    for which, each in enumerate((reference, quantized)):
        assert torch.equal(found.choices[which], each.argmax(-1))
        expected = cross_entropy(each.double(), targets, reduction="none")
        torch.testing.assert_close(found.losses[which], expected, rtol=1e-5, atol=1e-5)
    assert found.is_finite == (True, True)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_a_distribution_is_at_no_distance_from_itself(rows, classes, seed):
    reference = logits(rows, classes, seed)
    assert compare(reference, reference.clone()).kl.tolist() == [0.0] * rows


def test_large_vocabularies_are_worked_on_in_parts(monkeypatch):
    reference, quantized = logits(7, 50, 0), logits(7, 50, 1)
    whole = compare(reference, quantized, torch.arange(7))
    monkeypatch.setattr(distributions, "_NUMBERS_AT_ONCE", 100)
    parts = compare(reference, quantized, torch.arange(7))
    assert torch.equal(whole.kl, parts.kl) and torch.equal(whole.losses[1], parts.losses[1])


def test_logits_of_16_bits_are_compared_in_32():
    reference, quantized = logits(4, 30, 0).bfloat16(), logits(4, 30, 1).bfloat16()
    torch.testing.assert_close(compare(reference, quantized).kl, direct(reference, quantized), rtol=1e-4, atol=1e-6)


def test_logits_are_not_changed():
    reference, quantized = logits(4, 30, 0), logits(4, 30, 1)
    kept = reference.clone(), quantized.clone()
    compare(reference, quantized)
    assert torch.equal(reference, kept[0]) and torch.equal(quantized, kept[1])


def test_classes_that_both_exclude_do_not_count():
    reference, quantized = logits(3, 10, 0), logits(3, 10, 1)
    expected = direct(reference[:, :8], quantized[:, :8])
    reference[:, 8:] = quantized[:, 8:] = -torch.inf
    found = compare(reference, quantized)
    torch.testing.assert_close(found.kl, expected, rtol=1e-4, atol=1e-6)
    assert found.is_finite == (True, True)


def test_a_class_that_only_the_quantized_model_excludes_is_infinitely_far():
    reference, quantized = logits(1, 10, 0), logits(1, 10, 1)
    quantized[0, 4] = -torch.inf
    assert compare(reference, quantized).kl.tolist() == [torch.inf]


@pytest.mark.parametrize("spoiled", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1])
def test_nan_and_infinity_are_seen_in_the_model_that_has_them(spoiled, which):
    both = [logits(3, 10, 0), logits(3, 10, 1)]
    both[which][1, 4] = spoiled
    assert compare(*both).is_finite == (which != 0, which != 1)


def test_without_targets_there_are_no_losses():
    assert [loss.tolist() for loss in compare(logits(2, 5, 0), logits(2, 5, 1)).losses] == [[0.0, 0.0]] * 2
