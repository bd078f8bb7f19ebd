"""What plain Transformers, with the real package, makes of exported folders."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, LlamaConfig, T5Config, T5ForConditionalGeneration

import hf_quant
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ExportError
from hf_quant.export.comparing import allowed_error, relative_error, sample
from hf_quant.formats import weight_facts
from hf_quant.layouts.compressed_tensors import read
from hf_quant.modules.swap import quantized_modules
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.calibration_data import calibration
from tests.integration.tiny import run_python, saved_tensors, tiny_model

pytest.importorskip("compressed_tensors", reason='needs pip install "hf-quant[compressed-tensors]"')

SYM4 = TensorScheme(bits=4, granularity="group", group_size=32)
PER_TOKEN = TensorScheme(bits=8, symmetric=False, granularity="token", dynamic=True)
MIXED = {"*.down_proj": "int8", "*.layers.0.self_attn.*": "w8a16"}

WEIGHT_ONLY = {
    "w8a16": HfQuantConfig("w8a16", rotation=0),
    "4 bits": HfQuantConfig(scheme=Scheme(SYM4), rotation=0),
    "3 bits": HfQuantConfig(scheme=Scheme(TensorScheme(bits=3, granularity="group", group_size=32)), rotation=0),
    "7 bits per channel": HfQuantConfig(scheme=Scheme(TensorScheme(bits=7)), rotation=0),
    "per tensor": HfQuantConfig(scheme=Scheme(TensorScheme(granularity="tensor")), rotation=0),
}
QUANTIZED_INPUTS = {
    "int8": HfQuantConfig("int8", rotation=0),
    "asymmetric int8": HfQuantConfig(scheme=Scheme(TensorScheme(symmetric=False), PER_TOKEN), rotation=0),
    "mixed": HfQuantConfig(scheme=Scheme(SYM4), rotation=0, overrides=MIXED),
}

OPEN = """
    import sys
    from pathlib import Path
    import torch, transformers
    from safetensors.torch import load_file, save_file
    def watch(name):
        def hook(module, args, output):
            found[f"in.{name}"], found[f"out.{name}"] = args[0].clone(), output.clone()
        return hook
    for folder, kind in zip(sys.argv[1::2], sys.argv[2::2]):
        found = {}
        model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(watch(name))
        with torch.no_grad():
            found["logits"] = model(**load_file(Path(folder).with_suffix(".given"))).logits
        save_file(found, Path(folder).with_suffix(".found"))
    assert "hf_quant" not in sys.modules and "compressed_tensors" in sys.modules
"""


def exported(model, directory, **options):
    return hf_quant.export(model, "compressed-tensors", directory, verify=False, **options)


def static():
    config = HfQuantConfig("int8-static", overrides={"cls.*": "w8a16"}, rotation=0)
    config.calibration = calibration()
    return config


CASES = [
    *((family, name) for family in ("bert", "llama-untied", "gpt2") for name in WEIGHT_ONLY),
    *((family, name) for family in ("llama", "llama-untied") for name in QUANTIZED_INPUTS),
    ("bert", "static"),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Case to model, folder, and what a process that never imports this package finds: logits, and what linears got
    and gave."""
    place, made, arguments = tmp_path_factory.mktemp("there"), {}, []
    for number, (family, name) in enumerate(CASES):
        config = static() if name == "static" else {**WEIGHT_ONLY, **QUANTIZED_INPUTS}[name]
        model = hf_quant.quantize(tiny_model(family), config)
        exported(model, place / str(number))
        save_file(sample(model)[0], place / f"{number}.given")
        made[family, name] = model, place / str(number)
        arguments += [place / str(number), type(model).__name__]
    result = run_python(OPEN, *arguments)
    assert result.returncode == 0, result.stderr
    return {case: (model, folder, load_file(folder.with_suffix(".found"))) for case, (model, folder) in made.items()}


@torch.no_grad()
def largest_error_of_linears(model, found):
    """Of quantized linears on the inputs that they got there, and how many those are."""
    linears = [(name, module) for name, module in quantized_modules(model) if f"in.{name}" in found]
    errors = [relative_error(found[f"out.{name}"], module(found[f"in.{name}"])) for name, module in linears]
    return max(errors), len(linears)


def same_tensors_as_read_back(model, directory):
    """Codes, scales and zero points in the files are those of the model, bit for bit; how many weights there were."""
    tensors, compared = saved_tensors(directory), 0
    for name, module in quantized_modules(model):
        own = {key.removeprefix(f"{name}."): each for key, each in tensors.items() if key.startswith(f"{name}.weight")}
        if set(own) == {"weight"} and own["weight"].is_floating_point():
            continue
        matrix = module.spec.matrix
        if matrix.scheme.granularity == "tensor":
            own["weight_scale"] = own["weight_scale"].unique()
        found = read(own, matrix.scheme.bits, matrix.scheme.symmetric).tensors
        expected = module.neutral()
        assert list(found) == list(weight_facts(matrix.scheme, matrix.rows, matrix.width)) == list(expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
        compared += 1
    return compared


@pytest.mark.parametrize("name", WEIGHT_ONLY)
@pytest.mark.parametrize("family", ["bert", "llama-untied", "gpt2"])
def test_weight_only_models_give_the_same_logits_and_codes(family, name, opened):
    model, folder, found = opened[family, name]
    assert relative_error(found["logits"], sample(model)[1]) <= 1e-5
    linears = {"gpt2": 1, "bert": 14, "llama-untied": 15}[family]
    assert same_tensors_as_read_back(model, folder) == linears


@pytest.mark.parametrize("name", QUANTIZED_INPUTS)
@pytest.mark.parametrize("family", ["llama", "llama-untied"])
def test_every_linear_with_quantized_inputs_gives_the_same_on_the_same_input(family, name, opened):
    model, folder, found = opened[family, name]
    error, linears = largest_error_of_linears(model, found)
    assert error <= 1e-5 and linears == 15
    inputs, expected = sample(model)
    assert relative_error(found["logits"], expected) <= allowed_error(model, inputs, expected)
    assert same_tensors_as_read_back(model, folder) == 15


def test_static_inputs_have_their_grids_there(opened):
    model, folder, found = opened["bert", "static"]
    assert sum(module.input_scale is not None for _, module in quantized_modules(model)) == 12
    error, linears = largest_error_of_linears(model, found)
    assert error <= 1e-5 and linears == 14
    assert same_tensors_as_read_back(model, folder) == 14


def test_the_head_of_a_tied_model_is_written_beside_the_floats_of_its_embedding(tmp_path):
    model = hf_quant.quantize(tiny_model("llama"), HfQuantConfig("int8", rotation=0))
    done = exported(model, tmp_path / "there")
    tensors = saved_tensors(tmp_path / "there")
    assert tensors["lm_head.weight"].dtype == torch.int8
    assert torch.equal(tensors["model.embed_tokens.weight"], model.model.embed_tokens.dequantized_weight())
    assert not LlamaConfig.from_pretrained(tmp_path / "there").tie_word_embeddings
    assert model.config.tie_word_embeddings
    assert "a second time" in str(done.report)


def test_a_tied_bias_is_written_under_both_names(tmp_path):
    model = hf_quant.quantize(tiny_model("bert"), HfQuantConfig("w8a16", rotation=0))
    exported(model, tmp_path / "there")
    tensors = saved_tensors(tmp_path / "there")
    assert torch.equal(tensors["cls.predictions.bias"], tensors["cls.predictions.decoder.bias"])


def test_a_mixed_plan_has_a_group_for_each_scheme(tmp_path):
    model = hf_quant.quantize(tiny_model("llama-untied"), QUANTIZED_INPUTS["mixed"])
    exported(model, tmp_path / "there")
    config = json.loads((tmp_path / "there" / "config.json").read_text())["quantization_config"]
    groups = config["config_groups"].values()
    assert config["format"] == "mixed-precision"
    assert sorted((group["format"], len(group["targets"])) for group in groups) == [
        ("int-quantized", 2),
        ("pack-quantized", 5),
        ("pack-quantized", 8),
    ]
    assert config["ignore"] == []


def test_a_linear_that_stays_float_is_ignored(tmp_path):
    config = HfQuantConfig("w8a16", rotation=0, modules_to_not_convert=["lm_head"])
    model = hf_quant.quantize(tiny_model("llama-untied"), config)
    done = hf_quant.export(model, "compressed-tensors", tmp_path / "there", verify=True)
    config = json.loads((tmp_path / "there" / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head"]
    assert done.comparison.is_right and done.comparison.figures["relative error of outputs"] <= 1e-5


def test_a_half_precision_model_is_verified_in_its_own_dtype(tmp_path):
    model = hf_quant.quantize(tiny_model("llama-untied").to(torch.bfloat16), WEIGHT_ONLY["4 bits"])
    done = hf_quant.export(model, "compressed-tensors", tmp_path / "there", verify=True)
    assert done.comparison.is_right
    assert saved_tensors(tmp_path / "there")["model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_floats_of_another_dtype_are_computed_with_in_that_of_the_model(family, tmp_path):
    stored = {"*.0.*down_proj": "bf16", "*.0.output.dense": "bf16", "*embed_tokens": "fp16", "lm_head": "fp16"}
    known = {name: value for name, value in stored.items() if name.startswith("*.0.out") == (family == "bert")}
    config = HfQuantConfig(scheme=Scheme(SYM4), rotation=0, overrides=known)
    done = hf_quant.export(hf_quant.quantize(tiny_model(family), config), "compressed-tensors", tmp_path / "there")
    assert done.comparison.is_right and done.comparison.figures["allowed"] == 1e-5
    assert "computed in the dtype of the model" in str(done.report)
    assert json.loads((tmp_path / "there" / "config.json").read_text())["dtype"] == "float32"


def test_a_model_of_which_nothing_has_codes_there_is_refused(tmp_path):
    config = HfQuantConfig("w8a16", rotation=0, modules_to_not_convert=["lm_head", "transformer.wte"])
    model = hf_quant.quantize(tiny_model("gpt2"), config)
    with pytest.raises(ExportError, match="save_pretrained"):
        exported(model, tmp_path / "there")


def test_rotated_weights_are_written_only_for_who_accepts_them(tmp_path):
    model = hf_quant.quantize(tiny_model("llama-untied"), "int8")
    with pytest.raises(ExportError, match="rotation=0"):
        exported(model, tmp_path / "there")
    assert not (tmp_path / "there").exists()
    done = hf_quant.export(model, "compressed-tensors", tmp_path / "there", accept=["rotation"])
    assert done.comparison is None and done.manifest["accepted"] == ["rotation"]
    config = json.loads((tmp_path / "there" / "config.json").read_text())["quantization_config"]
    (group,) = config["transform_config"]["config_groups"].values()
    assert group["head_dim"] == 64 and len(group["apply"][0]["targets"]) == 15


APPLY = """
    import json, sys
    from pathlib import Path
    import torch, transformers
    from compressed_tensors.transform import TransformConfig, apply_transform_config
    from safetensors.torch import load_file, save_file
    folder = Path(sys.argv[1])
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    said = json.loads((folder / "config.json").read_text())["quantization_config"]["transform_config"]
    apply_transform_config(model, TransformConfig.model_validate(said))
    with torch.no_grad():
        save_file({"logits": model(**load_file(sys.argv[2])).logits}, sys.argv[3])
"""


def test_who_applies_the_transforms_that_the_config_names_gets_what_rotated_weights_mean(tmp_path):
    model = hf_quant.quantize(tiny_model("llama-untied"), "w8a16")
    exported(model, tmp_path / "there", accept=["rotation"])
    inputs, expected = sample(model)
    save_file(inputs, tmp_path / "given")
    result = run_python(APPLY, tmp_path / "there", tmp_path / "given", tmp_path / "found")
    assert result.returncode == 0, result.stderr
    assert relative_error(load_file(tmp_path / "found")["logits"], expected) <= 1e-5


def test_what_plain_transformers_computes_otherwise_is_not_written(tmp_path):
    model = hf_quant.quantize(tiny_model("llama-untied"), "int8")
    with pytest.raises(ExportError, match="computes something else"):
        hf_quant.export(model, "compressed-tensors", tmp_path / "there", accept=["rotation"], verify=True)
    assert not any(tmp_path.iterdir())


def test_packed_zero_points_are_what_this_version_cannot_load(tmp_path):
    model = hf_quant.quantize(tiny_model("llama-untied"), HfQuantConfig("w4a16", rotation=0))
    with pytest.raises(ExportError, match="ask for symmetric weights"):
        exported(model, tmp_path / "there")
    with pytest.raises(ExportError, match="cannot open"):
        hf_quant.export(model, "compressed-tensors", tmp_path / "there", accept=["asymmetric"], verify=True)
    exported(model, tmp_path / "there", accept=["asymmetric"])
    assert same_tensors_as_read_back(model, tmp_path / "there") == 15


def test_the_pooler_of_a_classifier_is_refused_with_quantized_inputs():
    model = hf_quant.quantize(tiny_model("bert", BertForSequenceClassification), QUANTIZED_INPUTS["int8"])
    report = hf_quant.portability(model, "compressed-tensors")
    assert [verdict.module for verdict in report.refused] == ["bert.pooler.dense", "classifier"]
    assert {scheme.input for scheme in report.overrides.values()} == {None}


def test_a_head_that_cannot_be_untied_is_refused_before_anything_is_written(tmp_path):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = hf_quant.quantize(T5ForConditionalGeneration(config).eval(), HfQuantConfig("w8a16", rotation=0))
    with pytest.raises(ExportError, match="not tied to the embedding"):
        exported(model, tmp_path / "there")
    assert model.config.tie_word_embeddings and not any(tmp_path.iterdir())


def test_large_models_are_written_in_several_files(tmp_path):
    model = hf_quant.quantize(tiny_model("llama-untied"), WEIGHT_ONLY["w8a16"])
    done = hf_quant.export(model, "compressed-tensors", tmp_path / "there", max_shard_size="60KB")
    assert done.comparison.is_right
    assert "model.safetensors.index.json" in done.manifest["files"]
    assert len(list((tmp_path / "there").glob("*.safetensors"))) > 1
