"""Flips, tests and divergences of results that are known."""

import math

import pytest
import scipy.stats

from hf_quant.evaluation.agreement import agreement
from hf_quant.evaluation.statistics import Bootstrap
from hf_quant.evaluation.tasks.base import Result

BOOTSTRAP = Bootstrap(200)


def result(kl=0.0, same=1, to_wrong=0, to_right=0, units=1):
    return Result(0, kl=kl, same=same, to_wrong=to_wrong, to_right=to_right, units=units)


def test_flips_are_counted_each_way_and_tested():
    results = [result()] * 20 + [result(same=0, to_wrong=1)] * 9 + [result(same=0, to_right=1)] * 2
    found = agreement([*results, result(same=0)], "examples", BOOTSTRAP)
    assert (found.compared, found.flips_to_wrong, found.flips_to_right) == (32, 9, 2)
    assert found.top1_agreement == 20 / 32
    assert found.mcnemar_p == pytest.approx(scipy.stats.binomtest(9, 11).pvalue)


def test_the_divergence_is_a_mean_over_answers_whose_interval_is_over_examples():
    results = [result(kl=kl, units=units, same=units) for kl, units in ((0.1, 1), (2.0, 4), (0.5, 5))] * 10
    found = agreement(results, "tokens", BOOTSTRAP)
    assert found.unit == "tokens" and found.compared == 100
    assert found.kl_mean == pytest.approx(0.26)
    assert 0.1 < found.kl_low < 0.26 < found.kl_high < 0.5


def test_an_infinite_divergence_has_no_mean():
    found = agreement([result(), result(kl=math.inf)], "examples", BOOTSTRAP)
    assert found.kl_mean is None and found.top1_agreement == 1


def test_what_a_task_does_not_have_is_none():
    found = agreement([Result(0), Result(1)], "pairs", BOOTSTRAP)
    assert found == type(found)("pairs", 2)
