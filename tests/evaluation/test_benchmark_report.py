"""A report survives JSON, and a strange one is refused."""

import json

import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from tests.reporting.samples import benchmark_report


def test_a_report_comes_back_from_json_as_it_was():
    report = benchmark_report()
    assert BenchmarkReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_other_versions_are_refused(version):
    with pytest.raises(EvaluationError, match="schema version"):
        BenchmarkReport.from_dict({**benchmark_report().to_dict(), "schema_version": version})


def test_a_speed_up_is_found_by_its_case_and_a_missing_one_names_those_there_are():
    report = benchmark_report(speed=4.0)
    assert report.speed_up("forward", 8, 128).ratio.median == pytest.approx(4, rel=0.1)
    with pytest.raises(EvaluationError, match=r"forward 2 x 2 was not measured; measured: forward 1 x 32, forward 8"):
        report.speed_up("forward", 2, 2)


def test_only_what_was_measured_of_both_models_makes_a_pair():
    report = benchmark_report()
    values = report.to_dict()
    del values["quantized"]["timings"][0]
    del values["speed_ups"][1]
    pairs = BenchmarkReport.from_dict(values).pairs()
    assert [one.case for one, _, _ in pairs] == [("decode", 1, 128)]
