"""A checkpoint carries its figures: they go where its tensors go, and are lost where other tensors come."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM

import hf_quant
from hf_quant.errors import CheckpointError, EvaluationError, SaveError
from hf_quant.evaluation.fingerprint import checkpoint_fingerprint
from hf_quant.hub.evidence import EVIDENCE_FILE, public_name
from tests.integration.tiny import tiny_model
from tests.reporting.samples import HOSTILE, benchmark_report, drop_report

OWNED = """---
license: mit
model-index:
- name: my-model
  results:
  - task:
      type: fill-mask
    dataset:
      type: owner/data
      name: Owner's data
    metrics:
    - type: accuracy
      value: 0.5
---

# Mine

Words of its owner.
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "bert-int8"
    hf_quant.quantize(tiny_model("bert"), "int8", progress=False).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "bert-int8")


def drop_of(folder, **changes):
    return replace(drop_report(str(folder), **changes), reference=str(folder.parent / "bert"))


def speed_of(folder):
    report = benchmark_report(str(folder))
    return replace(report, quantized=replace(report.quantized, fingerprint=checkpoint_fingerprint(folder)))


def card(folder):
    return ModelCard.load(folder / "README.md")


def test_a_card_without_measurements_claims_nothing(folder):
    text = card(folder).text
    assert "## Quantization" in text and "Accuracy" not in text and "speed" not in text.lower()
    assert "model-index" not in card(folder).data.to_dict() and not (folder / EVIDENCE_FILE).exists()


def test_figures_are_on_the_card_with_their_intervals_and_their_data(folder):
    drop, speed = drop_of(folder), speed_of(folder)
    hf_quant.write_model_card(folder, drop, speed)
    text = card(folder).text
    assert "### Accuracy against bert: text-classification" in text
    assert "+0.40 pt (-0.20 to +1.10)" in text and "the paired 95 % interval" in text
    assert drop.data.fingerprint in text and "14 right ones became wrong, 6 wrong ones right" in text
    assert "### Size and speed on a CPU, 2 threads" in text and "23.0 MB" in text and "5.0" in text


def test_figures_are_metadata_that_the_hub_shows(folder):
    drop = drop_of(folder)
    hf_quant.write_model_card(folder, drop)
    _, metadata, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    (entry,) = yaml.safe_load(metadata)["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "bert-int8"
    assert result["task"] == {"type": "text-classification"}
    assert {metric["name"]: metric["value"] for metric in result["metrics"]} == {
        metric.name: metric.quantized for metric in drop.metrics
    }


def test_results_of_the_owner_stay_and_ours_are_renewed(folder):
    (folder / "README.md").write_text(OWNED)
    for loss in (0.004, 0.015):
        hf_quant.write_model_card(folder, drop_of(folder, loss=loss))
    found = card(folder)
    assert "Words of its owner." in found.text and found.data.license == "mit" and found.data.model_name == "my-model"
    values = {(result.dataset_name, result.metric_name): result.metric_value for result in found.data.eval_results}
    assert values == {
        ("Owner's data", None): 0.5,
        ("reviews.csv", "accuracy"): 0.9531 - 0.015,
        ("reviews.csv", "log loss"): 0.1730,
    }


def test_a_second_kind_of_figures_joins_the_first_and_the_same_takes_its_place(folder):
    hf_quant.write_model_card(folder, drop_of(folder))
    hf_quant.write_model_card(folder, benchmark=speed_of(folder))
    hf_quant.write_model_card(folder, drop_of(folder, loss=0.015))
    hf_quant.write_model_card(folder, drop_of(folder, task="sentence-similarity"))
    report = hf_quant.read_report(folder / EVIDENCE_FILE)
    assert [(drop.task, drop.metrics[0].drop) for drop in report.drops] == [
        ("text-classification", 0.015),
        ("sentence-similarity", 0.004),
    ]
    assert len(report.benchmarks) == 1
    assert card(folder).text.count("## Quantization") == 1 and card(folder).text.count("### Accuracy") == 2


def test_writing_the_card_again_changes_nothing(folder):
    hf_quant.write_model_card(folder, drop_of(folder), speed_of(folder))
    before = (folder / "README.md").read_bytes(), (folder / EVIDENCE_FILE).read_bytes()
    hf_quant.write_model_card(folder)
    assert ((folder / "README.md").read_bytes(), (folder / EVIDENCE_FILE).read_bytes()) == before


def test_the_same_tensors_keep_their_figures_wherever_they_are_saved(folder, tmp_path):
    hf_quant.write_model_card(folder, drop_of(folder), speed_of(folder))
    model = AutoModelForMaskedLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "copy", max_shard_size="50KB")
    assert "+0.40 pt" in card(tmp_path / "copy").text
    assert hf_quant.read_report(tmp_path / "copy" / EVIDENCE_FILE) == hf_quant.read_report(folder / EVIDENCE_FILE)
    model.save_pretrained(folder)
    assert "+0.40 pt" in card(folder).text


def test_other_tensors_lose_the_figures_and_the_report(folder):
    hf_quant.write_model_card(folder, drop_of(folder), speed_of(folder))
    hf_quant.quantize(tiny_model("bert", seed=1), "int8", progress=False).save_pretrained(folder)
    assert "+0.40 pt" not in card(folder).text and "model-index" not in card(folder).data.to_dict()
    report = hf_quant.read_report(folder / EVIDENCE_FILE)
    assert report.drops == report.benchmarks == () and report.checkpoint == checkpoint_fingerprint(folder)


def test_what_may_be_private_stays_out_of_what_is_published(folder, tmp_path):
    hf_quant.write_model_card(folder, drop_of(folder), speed_of(folder))
    for file in ("README.md", EVIDENCE_FILE):
        text = (folder / file).read_text(encoding="utf-8")
        assert str(tmp_path) not in text and HOSTILE not in text and "a long text" not in text


def test_a_hostile_name_of_the_data_is_text_on_the_card(folder):
    drop = drop_of(folder)
    hf_quant.write_model_card(folder, replace(drop, data=replace(drop.data, name="<b>x</b> | [y](http://z.example)")))
    assert "<b>" not in card(folder).text and "](http" not in card(folder).text


def test_a_report_of_another_checkpoint_is_refused_and_nothing_is_written(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    before = (folder / "README.md").read_bytes()
    with pytest.raises(EvaluationError, match="give the directory that was measured"):
        hf_quant.write_model_card(folder, drop_of(other))
    changed = replace(speed_of(folder).quantized, fingerprint="0" * 64)
    with pytest.raises(EvaluationError, match="has changed since the benchmark: run it again"):
        hf_quant.write_model_card(folder, benchmark=replace(speed_of(folder), quantized=changed))
    assert (folder / "README.md").read_bytes() == before and not (folder / EVIDENCE_FILE).exists()


@pytest.mark.parametrize("content", ["{}", "nonsense", '{"quantization_config": {"quant_method": "bitsandbytes"}}'])
def test_a_directory_without_a_quantized_checkpoint_is_a_typed_error(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="give the directory that a quantized model was saved to"):
        hf_quant.write_model_card(folder)


def test_a_report_that_cannot_be_read_does_not_stop_a_save(folder, caplog):
    (folder / EVIDENCE_FILE).write_text(json.dumps({"schema_version": 99, "drops": [], "benchmarks": []}))
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    assert "the model card goes without it" in caplog.text and "99" in caplog.text
    assert "## Quantization" in card(folder).text


def test_a_card_that_cannot_be_parsed_stays_as_it_is(folder):
    (folder / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(SaveError, match="not a model card"):
        hf_quant.write_model_card(folder, drop_of(folder))
    assert (folder / "README.md").read_bytes() == b"\xff\xfe"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/model", "owner/model"),
        ("model", "model"),
        ("/home/me/model", "model"),
        ("./model", "model"),
        ("~/models/model", "model"),
        ("a/b/model", "model"),
    ],
)
def test_names_of_repositories_are_public_and_folders_are_not(name, expected):
    assert public_name(name) == expected
