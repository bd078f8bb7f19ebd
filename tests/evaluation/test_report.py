"""A report goes to JSON and back."""

import json

import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.report import SCHEMA_VERSION, DropReport
from tests.evaluation.tiny import evaluated


@pytest.fixture(scope="module")
def report():
    return evaluated("text-classification", per_layer=2, labels={name: name for name in ("bad", "fair", "good")})


def test_json_holds_all_of_a_report(report):
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["schema_version"] == SCHEMA_VERSION
    assert DropReport.from_dict(plain) == report


def test_options_say_how_it_was_evaluated(report):
    assert report.options == {"batch_size": 16, "labels": {"bad": "bad", "fair": "fair", "good": "good"}}
    assert (report.resamples, report.seed, report.confidence) == (200, 0, 0.95)
    assert report.seconds > report.seconds_reference > 0 and report.seconds_quantized > 0


def test_metrics_are_found_by_name(report):
    assert report.metric() is report.metrics[0] is report.metric("accuracy")
    with pytest.raises(EvaluationError, match="did you mean 'accuracy'"):
        report.metric("acuracy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "schema version 2"),
        ({"task": 3}, "the report.task is 3"),
        ({"colour": "red"}, "no key 'colour'"),
    ],
)
def test_another_report_is_refused(report, changes, message):
    with pytest.raises(EvaluationError, match=message):
        DropReport.from_dict({**report.to_dict(), **changes})
