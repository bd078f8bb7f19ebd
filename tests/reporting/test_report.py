"""One file for programs: it comes back as it was, and a strange or newer one is refused by name."""

import json

import pytest

from hf_quant.errors import EvaluationError, SaveError
from hf_quant.reporting.json_file import read_json, write_json, write_text
from hf_quant.reporting.report import Report, short_name
from tests.reporting.samples import benchmark_report, drop_report, full_report


def test_a_report_comes_back_from_its_file_as_it_was(tmp_path):
    report = full_report()
    write_json(report, tmp_path / "report.json")
    assert read_json(tmp_path / "report.json") == report


@pytest.mark.parametrize(
    ("single", "expected"),
    [
        (drop_report().to_dict(), Report((drop_report(),))),
        (benchmark_report().to_dict(), Report((), (benchmark_report(),))),
    ],
)
def test_a_single_evaluation_or_benchmark_is_read_too(single, expected, tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(single))
    assert read_json(tmp_path / "one.json") == expected


def newer_inside():
    report = full_report().to_dict()
    report["benchmarks"][1]["schema_version"] = 7
    return report


@pytest.mark.parametrize(
    "values",
    [
        {**full_report().to_dict(), "schema_version": 2},
        {**drop_report().to_dict(), "schema_version": 9},
        newer_inside(),
    ],
)
def test_a_newer_schema_is_said_to_be_newer(values, tmp_path):
    (tmp_path / "new.json").write_text(json.dumps(values))
    with pytest.raises(EvaluationError, match=r"new\.json: .* newer than the 1 .*pip install --upgrade hf-quant"):
        read_json(tmp_path / "new.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as a report"),
        ("[" * 100_000, "cannot be read as a report"),
        ("[]", "is not an object"),
        ("{}", "schema version None"),
        ('{"schema_version": 1, "drops": {}}', "are lists"),
        ('{"schema_version": 1, "drops": [3]}', r"drops\[0\] is not an object"),
        ('{"schema_version": 1, "drops": [], "wishes": 1}', "holds 'wishes'"),
        ('{"schema_version": 1, "drops": [], "checkpoint": 1}', "checkpoint is a text"),
        ('{"schema_version": 0, "drops": []}', "schema version 0"),
    ],
)
def test_what_is_no_report_is_refused(text, message, tmp_path):
    (tmp_path / "strange.json").write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_json(tmp_path / "strange.json")


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(EvaluationError, match=r"nothing\.json cannot be read"):
        read_json(tmp_path / "nothing.json")


def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path):
    file = tmp_path / "report.json"
    write_json(full_report(), file)
    before = file.read_bytes()
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        write_json(Report((drop_report(loss=float("nan")),)), file)
    assert file.read_bytes() == before


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(SaveError, match="cannot write"):
        write_text(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_new_file_has_the_rights_that_others_have(tmp_path):
    write_text(tmp_path / "ours", "text")
    (tmp_path / "plain").write_text("text")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_models_are_matched_by_name():
    report = full_report()
    assert report.models == ["models/minilm-int8", "models/minilm-int4"]
    assert report.figures_of(report.drops[1])[1].file_bytes == 17_800_000
    assert Report(report.drops).figures_of(report.drops[0]) is None


@pytest.mark.parametrize(
    ("name", "short"),
    [("/a/b/model", "model"), ("owner/model", "model"), ("model", "model"), ("a/b/", "b"), ("/", "/")],
)
def test_the_short_name_of_a_model_is_the_last_part(name, short):
    assert short_name(name) == short
