"""From a float model and a device to what runs there: reasons, files, and refusals before work."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import hf_quant
from hf_quant.errors import ConfigError, ExportError, InfeasibleBudget, MissingDependency, UnknownName, UnsupportedModel
from hf_quant.export import TARGETS
from hf_quant.export.onnx import targets
from hf_quant.hardware.profile import Figure
from hf_quant.hardware.profiles import get_profile
from hf_quant.modules.swap import quantized_modules
from hf_quant.planner.optimize_for import advise
from tests.evaluation.tiny import tiny_tokenizer
from tests.integration.tiny import outputs, tiny_model

PI = "raspberry-pi-5"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("source")
    tiny_model("llama-untied", num_hidden_layers=1).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def deploy(model, device, *place, **options):
    return hf_quant.deploy(model, device, *place, progress=False, **options)


def test_a_checkpoint_becomes_one_that_computes_what_the_model_in_memory_does(source, tmp_path):
    done = deploy(source, PI, tmp_path / "there")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    assert torch.equal(outputs(loaded), outputs(done.model))
    assert (tmp_path / "there" / "tokenizer.json").is_file() and done.directory == tmp_path / "there"
    assert done.exported is None and f"Saved to {tmp_path / 'there'}" in str(done)


@pytest.mark.parametrize("target", ["speed", "memory", "accuracy"])
def test_the_plan_is_the_one_by_rules(target):
    done = deploy(tiny_model("llama-untied"), PI, target=target)
    assert done.advice == advise(tiny_model("llama-untied"), PI, target)
    schemes = {name: module.spec.scheme for name, module in quantized_modules(done.model)}
    assert schemes == dict(done.advice.plan.modules) and done.directory is None


def test_reasons_are_sentences():
    text = list(deploy(tiny_model("llama-untied"), "mobile").sentences())
    assert text[0] == f"mobile means raspberry-pi-5: {get_profile(PI).summary}."
    assert "ExecuTorch" in text[1] and text[2].startswith("Asked for is speed: ")
    assert any(line.startswith("int8: 14 modules, ") for line in text) and "MB of weights" in text[-1]
    assert all(line.endswith(".") for line in text)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("device", "target", "exported"),
    [
        ("desktop", "speed", "onnx"),
        ("edge", "memory", "onnx"),
        ("mobile", "speed", "executorch"),
        ("mobile", "memory", "executorch"),
    ],
)
def test_a_model_for_a_class_of_devices_computes_alike_in_what_runs_there(device, target, exported, source, tmp_path):
    found = TARGETS[exported]
    for name in (*found.packages, *found.runtime):
        pytest.importorskip(name)
    done = deploy(source, device, tmp_path / "there", target=target, verify=True)
    assert done.exported.target == exported and done.exported.comparison.is_right
    assert done.exported.comparison.figures["outputs"] < 0.05
    assert (tmp_path / "there" / "tokenizer.json").is_file() and "Run it with:" in str(done)


def test_a_class_of_devices_can_have_a_checkpoint_and_a_profile_an_export(source, tmp_path):
    done = deploy(source, "mobile", tmp_path / "a", export_to="checkpoint")
    assert done.exported is None and (tmp_path / "a" / "model.safetensors").is_file()
    done = deploy(source, PI, tmp_path / "b", export_to="compressed-tensors", verify=False)
    assert done.exported.target == "compressed-tensors" and "for compressed-tensors" in str(done)


@pytest.mark.parametrize(
    ("device", "options", "error", "words"),
    [
        ("raspberry-pi", {}, UnknownName, "did you mean"),
        (PI, {"target": "size"}, ConfigError, "memory"),
        (PI, {"export_to": "onxx"}, ConfigError, "did you mean 'onnx'"),
        (PI, {"verify": True}, ConfigError, "hf_quant.check"),
        (PI, {"export_to": "sglang", "verify": True}, ExportError, "cannot be run here"),
    ],
)
def test_what_is_asked_for_wrongly_is_told_before_the_model_is_touched(device, options, error, words, tmp_path):
    model = tiny_model("bert")
    with pytest.raises(error, match=words):
        deploy(model, device, tmp_path / "there", **options)
    assert not any(quantized_modules(model)) and not (tmp_path / "there").exists()


def test_missing_packages_of_the_export_are_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    found = replace(TARGETS["onnx"], packages=("no_such_package",))
    monkeypatch.setattr(targets, "ONNX", found)
    with pytest.raises(MissingDependency, match=r"hf-quant\[onnx\]"):
        deploy("./no-such-model", "desktop", tmp_path / "there")


def test_a_directory_with_something_else_is_told_before_the_model_is_loaded(source, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds something else, such as mine\.txt"):
        deploy("./no-such-model", PI, tmp_path, export_to="vllm")
    with pytest.raises(ConfigError, match="is a file"):
        deploy("./no-such-model", PI, tmp_path / "mine.txt")
    with pytest.raises(ConfigError, match="would be lost"):
        deploy(source, PI, source)


def test_a_model_that_does_not_fit_is_refused_with_what_would(tmp_path):
    model, pi = tiny_model("llama-untied"), get_profile(PI)
    small = {target: advise(model, pi, target).bytes for target in ("speed", "memory")}

    def with_room_for(size):
        return replace(pi, memory=Figure(size / 0.8 + 1, "measured", "this test"))

    with pytest.raises(InfeasibleBudget, match=r'do not fit.*target="memory"'):
        deploy(model, with_room_for(small["memory"]), tmp_path / "there")
    with pytest.raises(InfeasibleBudget, match="a smaller model"):
        deploy(model, with_room_for(small["memory"] / 2), tmp_path / "there")
    assert not any(quantized_modules(model)) and not (tmp_path / "there").exists()
    assert deploy(model, with_room_for(small["memory"]), target="memory").advice.fits


def test_a_quantized_model_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="quantized already"):
        deploy(hf_quant.quantize(tiny_model("bert"), "int8", progress=False), PI, tmp_path / "there")
    assert not (tmp_path / "there").exists()
