"""Pictures show the figures they are made of."""

import pytest

from hf_quant.reporting.plots import PLOTS
from hf_quant.reporting.plots.canvas import style, svg
from hf_quant.reporting.report import Report
from tests.reporting.samples import benchmark_report, drop_report, full_report


@pytest.fixture(scope="module")
def pictures():
    with style():
        return {name: PLOTS[name](full_report()) for name in PLOTS}


def points(picture):
    """Places of the marks that stand alone, in data."""
    (axes,) = picture.figure.axes
    lines = [line.get_xydata() for line in axes.lines]
    return [tuple(line[0]) for line in lines if len(line) == 1]


def test_a_loss_is_where_it_was_measured(pictures):
    expected = [
        (100 * metric.relative_drop, row)
        for row, metric in enumerate(metric for drop in full_report().drops for metric in drop.metrics)
    ]
    assert [row for _, row in points(pictures["drop"])] == [row for _, row in expected]
    assert [x for x, _ in points(pictures["drop"])] == pytest.approx([x for x, _ in expected])


def test_size_is_against_the_change_of_the_first_metric(pictures):
    found = points(pictures["size"])
    assert (23.0, pytest.approx(-100 * 0.004 / 0.9531)) in found
    assert (17.8, pytest.approx(-100 * 0.0151 / 0.9531)) in found
    assert (90.9, 0.0) in found


def test_latencies_are_medians_in_milliseconds(pictures):
    expected = {
        round(1e3 * timing.seconds.median, 6)
        for benchmark in full_report().benchmarks
        for model in (benchmark.reference, benchmark.quantized)
        for timing in model.timings
    }
    assert {round(x, 6) for x, _ in points(pictures["latency"])} == expected


def test_a_module_without_error_has_a_place_on_a_logarithmic_axis():
    drop = drop_report(layers=4)
    layers = tuple(
        type(layer)(layer.name, layer.kind, 0.0 if number == 1 else layer.relative_error)
        for number, layer in enumerate(drop.layers)
    )
    for errors in (layers, tuple(type(layer)(layer.name, layer.kind, 0.0) for layer in layers)):
        with style():
            picture = PLOTS["layers"](Report((type(drop)(**{**vars(drop), "layers": errors}),)))
            assert "<svg" in svg(picture, "layers")


@pytest.mark.parametrize("name", list(PLOTS))
def test_nothing_is_drawn_of_nothing(name):
    with style():
        assert PLOTS[name](Report()) is None


@pytest.mark.parametrize("name", ["drop", "size"])
def test_a_metric_without_relative_loss_is_left_out(name):
    drop = drop_report()
    metrics = tuple(type(metric)(**{**vars(metric), "relative_drop": None}) for metric in drop.metrics)
    report = Report((type(drop)(**{**vars(drop), "metrics": metrics}),), (benchmark_report(),))
    with style():
        assert PLOTS[name](report) is None
