import json

import pytest
import torch
from transformers import GenerationConfig

import hf_quant
from hf_quant.errors import ConfigError, ExportError, MissingDependency, SaveError, UnknownName, UnsupportedModel
from hf_quant.evaluation.fingerprint import checkpoint_fingerprint
from hf_quant.export import TARGETS, compressed_tensors
from hf_quant.export.manifest import MANIFEST
from hf_quant.export.target import Comparison, Target
from hf_quant.hub.evidence import EVIDENCE_FILE
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.reporting.json_file import write_json
from hf_quant.reporting.report import Report
from tests.evaluation.tiny import tiny_tokenizer
from tests.integration.tiny import auto_class, outputs, tiny_model

CT = "compressed-tensors"


@pytest.fixture(scope="module")
def model():
    return hf_quant.quantize(tiny_model("llama-untied"), HfQuantConfig("int8", rotation=0))


def export(model, directory, **options):
    return hf_quant.export(model, CT, directory, **{"verify": False, **options})


def replaced(monkeypatch, **changes):
    """Put other functions in the place of those of the target."""
    made = Target(**{"write": compressed_tensors.write, "run": ("run it",), **changes})
    monkeypatch.setattr(compressed_tensors, "TARGET", made)


def test_an_export_leaves_the_model_as_it_was(model, tmp_path):
    before = outputs(model)
    export(model, tmp_path / "there")
    assert torch.equal(outputs(model), before)


def test_the_manifest_says_what_was_made_of_what_and_how_to_run_it(model, tmp_path):
    done = export(model, tmp_path / "there", max_shard_size="1GB")
    manifest = json.loads((tmp_path / "there" / MANIFEST).read_text())
    assert manifest == json.loads(json.dumps(done.manifest))
    assert manifest["target"] == CT and manifest["model"] == "LlamaForCausalLM"
    assert manifest["plan"]["modules"]["lm_head"] == "W8A8"
    assert manifest["options"] == {"max_shard_size": "1GB"}
    assert manifest["versions"]["hf_quant"] == hf_quant.__version__ and "transformers" in manifest["versions"]
    assert set(manifest["files"]) == {path.name for path in (tmp_path / "there").iterdir()} - {MANIFEST}
    assert done.bytes == sum(path.stat().st_size for path in (tmp_path / "there").iterdir() if path.name != MANIFEST)
    assert manifest["run"][-1] == 'model = LlamaForCausalLM.from_pretrained("there")'
    assert f'from_pretrained("{tmp_path / "there"}")' in str(done)
    assert manifest["verified"] is None and "Not run here" in str(done)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_the_fingerprint_is_that_of_the_checkpoint(family, tmp_path):
    made = hf_quant.quantize(tiny_model(family), HfQuantConfig("w8a16", rotation=0))
    made.save_pretrained(tmp_path / "saved")
    known = checkpoint_fingerprint(tmp_path / "saved")
    assert export(made, tmp_path / "a").manifest["fingerprint"] == known
    loaded = auto_class(family).from_pretrained(tmp_path / "saved")
    assert export(loaded, tmp_path / "b").manifest["fingerprint"] == known
    other = hf_quant.quantize(tiny_model(family, seed=1), HfQuantConfig("w8a16", rotation=0))
    assert export(other, tmp_path / "c").manifest["fingerprint"] != known


def test_evidence_goes_along_if_it_is_of_these_tensors(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    write_json(Report(checkpoint=checkpoint_fingerprint(tmp_path / "saved")), tmp_path / "saved" / EVIDENCE_FILE)
    loaded = auto_class("llama").from_pretrained(tmp_path / "saved")
    assert export(loaded, tmp_path / "a").manifest["evidence"]["checkpoint"] is not None
    write_json(Report(checkpoint="of others"), tmp_path / "saved" / EVIDENCE_FILE)
    assert export(loaded, tmp_path / "b").manifest["evidence"] is None


def test_the_tokenizer_and_the_generation_config_lie_beside(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    tiny_tokenizer().save_pretrained(tmp_path / "saved")
    loaded = auto_class("llama").from_pretrained(tmp_path / "saved")
    export(loaded, tmp_path / "there")
    assert (tmp_path / "there" / "tokenizer.json").is_file()
    assert GenerationConfig.from_pretrained(tmp_path / "there").eos_token_id == loaded.generation_config.eos_token_id


def test_an_earlier_export_is_replaced(model, tmp_path):
    export(model, tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    done = export(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*done.manifest["files"], MANIFEST}
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors"])
def test_a_directory_with_something_else_is_refused_and_kept(model, name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ExportError, match=f"something else, such as {name}"):
        export(model, tmp_path)
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_file_put_beside_an_earlier_export_is_not_lost(model, tmp_path):
    export(model, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        export(model, tmp_path)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / MANIFEST).write_text('{"files": 3}')
    with pytest.raises(ExportError, match="cannot be read"):
        export(model, tmp_path)


def test_a_file_is_no_directory(model, tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ExportError, match="is a file"):
        export(model, tmp_path / "there")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_export_that_is_interrupted_leaves_what_was_there(model, error, tmp_path, monkeypatch):
    export(model, tmp_path / "there")
    before = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}

    def write(model, directory, tokenizer):
        (directory / "config.json").write_text("{")
        raise error

    replaced(monkeypatch, write=write)
    for place in ("there", "new"):
        with pytest.raises(error):
            export(model, tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()} == before


def test_what_a_killed_process_left_is_not_in_the_way(model, tmp_path):
    (tmp_path / f".{tmp_path.name}.0123abcd").mkdir()
    export(model, tmp_path)
    assert (tmp_path / MANIFEST).is_file()


def test_a_full_disk_is_told_in_one_error(model, tmp_path, monkeypatch):
    def write(model, directory, tokenizer):
        raise OSError(28, "No space left on device")

    replaced(monkeypatch, write=write)
    with pytest.raises(SaveError, match="No space left"):
        export(model, tmp_path / "there")


def test_a_wrong_artefact_is_not_published(model, tmp_path, monkeypatch):
    wrong = Comparison("a runtime", {"error": 0.5}, is_right=False)
    replaced(monkeypatch, verify=lambda model, directory: wrong)
    with pytest.raises(ExportError, match=r"a runtime: error 0\.5: WRONG"):
        export(model, tmp_path / "there", verify=None)
    assert list(tmp_path.iterdir()) == []
    export(model, tmp_path / "there", verify=False)


def test_a_right_artefact_has_its_figures_in_the_manifest(model, tmp_path, monkeypatch):
    right = Comparison("a runtime 1.0", {"error": 1e-7}, is_right=True, note="two words")
    replaced(monkeypatch, verify=lambda model, directory: right)
    done = export(model, tmp_path / "there", verify=None)
    assert done.comparison is right and "two words" in str(done)
    assert done.manifest["verified"] == {"runtime": "a runtime 1.0", "figures": {"error": 1e-7}, "note": "two words"}


def test_packages_that_are_missing_are_told_with_what_to_install(model, tmp_path, monkeypatch):
    verify = TARGETS[CT].verify
    replaced(monkeypatch, packages=("no_such_package",), extra="there")
    with pytest.raises(MissingDependency, match=r'pip install "hf-quant\[there\]"'):
        export(model, tmp_path / "there")
    replaced(monkeypatch, runtime=("no_such_package",), verify=verify)
    with pytest.raises(MissingDependency, match="pip install no-such-package"):
        export(model, tmp_path / "there", verify=True)
    assert export(model, tmp_path / "there", verify=None).comparison is None


def test_what_cannot_be_run_here_cannot_be_verified(model, tmp_path):
    with pytest.raises(ExportError, match="leave verify out"):
        hf_quant.export(model, "vllm", tmp_path / "there", verify=True)
    assert hf_quant.export(model, "vllm", tmp_path / "there").manifest["run"] == ["vllm serve there"]


def test_float_models_and_unknown_names_are_refused(model, tmp_path):
    with pytest.raises(UnsupportedModel, match="quantize it first"):
        export(tiny_model("llama"), tmp_path / "there")
    with pytest.raises(UnknownName, match="did you mean 'vllm'"):
        hf_quant.export(model, "vlm", tmp_path / "there")
    with pytest.raises(ConfigError, match="did you mean 'max_shard_size'"):
        export(model, tmp_path / "there", max_shards=2)
    with pytest.raises(ConfigError, match="did you mean 'rotation'"):
        export(model, tmp_path / "there", accept=["rotations"])
    assert not any(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_and_what_is_no_transformers_model_are_refused(tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft")
    made = hf_quant.quantize(tiny_model("llama-untied"), HfQuantConfig("int8", rotation=0))
    adapted = peft.get_peft_model(made, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UnsupportedModel, match="not PeftModel"):
        export(adapted, tmp_path / "there")
    with pytest.raises(UnsupportedModel, match="merge_and_unload"):
        export(adapted.base_model.model, tmp_path / "there")


def test_a_refusal_names_modules_reasons_and_what_to_ask_for(tmp_path):
    made = hf_quant.quantize(tiny_model("llama-untied"), "int4")
    with pytest.raises(ExportError) as refusal:
        export(made, tmp_path / "there")
    text = str(refusal.value)
    assert "q_proj: " in text and "ask for weights only, symmetric weights" in text and "and 12 more" in text
