"""Every metric of classes and scores equals scikit-learn's and SciPy's, also on each resample."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.evaluation import METRICS
from hf_quant.evaluation.metric_drops import MetricInputs, metric_drops
from hf_quant.evaluation.metrics.base import classes
from hf_quant.evaluation.statistics import Bootstrap


def f1(average):
    def compute(right, said):
        return sklearn.metrics.f1_score(right, said, average=average, zero_division=0)

    return compute


def f1_of_one_class_or_all(right, said):
    is_binary = set(right) | set(said) <= {0, 1}
    return sklearn.metrics.f1_score(right, said, average="binary" if is_binary else "macro", zero_division=0)


CLASSES = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": f1_of_one_class_or_all,
    "f1-macro": f1("macro"),
    "f1-micro": f1("micro"),
    "f1-weighted": f1("weighted"),
    "matthews": sklearn.metrics.matthews_corrcoef,
}
SCORES = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}


def value(name, right, said):
    found = METRICS[name]().compute(predictions=list(said), references=list(right))
    assert len(found) == 1
    return next(iter(found.values()))


def answers(count, number, seed):
    generator = np.random.default_rng(seed)
    right = generator.integers(number, size=count)
    return right, np.where(generator.random(count) < 0.6, right, generator.integers(number, size=count))


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@given(st.sampled_from(sorted(CLASSES)), st.integers(1, 40), st.integers(1, 5), st.integers(0, 999))
@settings(deadline=None, max_examples=100)
def test_metrics_of_classes_are_those_of_scikit_learn(name, count, number, seed):
    right, said = answers(count, number, seed)
    assert value(name, right, said) == pytest.approx(CLASSES[name](right, said), abs=1e-12)


@given(st.sampled_from(sorted(SCORES)), st.integers(3, 40), st.integers(0, 999), st.sampled_from([1.0, 1e4]))
@settings(deadline=None)
def test_correlations_are_those_of_scipy(name, count, seed, offset):
    generator = np.random.default_rng(seed)
    right = generator.integers(6, size=count) / 5
    said = right + generator.normal(size=count) + offset
    if np.ptp(right) == 0:
        assert value(name, right, said) == 0
    else:
        assert value(name, right, said) == pytest.approx(SCORES[name](right, said).statistic, abs=1e-9)


@pytest.mark.parametrize("name", sorted({**CLASSES, **SCORES}))
@pytest.mark.parametrize("number", [2, 4])
def test_the_replicates_of_an_interval_are_the_metric_of_each_resample(name, number):
    right, first = answers(50, number, 0)
    second = answers(50, number, 1)[1]
    bootstrap = Bootstrap(200, seed=3)
    compute = CLASSES.get(name) or (lambda right, said: SCORES[name](right, said).statistic)
    drop = metric_drops(METRICS[name](), MetricInputs(right, (first, second)), bootstrap)[0]
    drawn = np.concatenate(list(bootstrap.draws(50)))
    replicates = np.array([compute(right[rows], first[rows]) - compute(right[rows], second[rows]) for rows in drawn])
    assert drop.reference == pytest.approx(compute(right, first))
    assert drop.drop == pytest.approx(compute(right, first) - compute(right, second))
    # The ends are quantiles of the replicates: as near to each other as neighbours there are.
    for end in (drop.low, drop.high):
        assert np.abs(replicates - end).min() < 0.03
    assert (replicates < drop.low).mean() < 0.12 and (replicates > drop.high).mean() < 0.12


def test_classes_are_all_that_occur_once_and_sorted():
    assert classes([3, 1], np.array([1, 2])) == [1, 2, 3]


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_says_what_it_is(name):
    metric = METRICS[name]()
    assert metric.description.endswith(".") and metric.needs in ("answers", "sequences", "losses", "bytes")
