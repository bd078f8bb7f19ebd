"""Models with convolutions: quantized on the fly and in memory, calibrated, trained, saved, reloaded, turned back."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    MambaConfig,
    MambaForCausalLM,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import hf_quant
from hf_quant import Calibration, HfQuantConfig, Recipe
from hf_quant.errors import CalibrationError, CheckpointError, QuantizedWeightError, WeightError
from hf_quant.kernels.native import library
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.convolution import OpenedConvolution
from hf_quant.workflows.qat import convert, prepare
from tests.integration.tiny import error

PRESETS = ("int8", "w8a16", "int4", "w4a16")
ROUNDING = 1e-2 if library.load() is None else 1e-3
"""Torch's own kernels decode to bfloat16."""
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = {"pixel_values": torch.randn(6, 3, 32, 32, generator=GENERATOR)}
SOUND = {"input_values": torch.randn(2, 400, generator=GENERATOR)}
MELS = {
    "input_features": torch.randn(2, 16, 40, generator=GENERATOR),
    "decoder_input_ids": torch.randint(40, (2, 5), generator=GENERATOR),
}
IDS = {"input_ids": torch.randint(40, (2, 9), generator=GENERATOR)}


def _vit():
    return ViTForImageClassification(
        ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32,
                  patch_size=8, num_labels=5)
    )  # fmt: skip


def _resnet():
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 1], num_labels=5, layer_type="bottleneck")
    )


def _convnext():
    return ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[32, 64], depths=[1, 2], num_stages=2, num_labels=5)
    )


def _regnet():
    return RegNetForImageClassification(
        RegNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], groups_width=16, num_labels=5)
    )


def _wav2vec2():
    return Wav2Vec2ForCTC(
        Wav2Vec2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=20,
                       conv_dim=(32, 32), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
                       num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
    )  # fmt: skip


def _whisper():
    return WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=40, num_mel_bins=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                      decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, d_model=32,
                      max_source_positions=20, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                      decoder_start_token_id=3)
    )  # fmt: skip


def _mamba():
    return MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, state_size=4))


MODELS = {
    "vit": (_vit, IMAGES, "vit.embeddings.patch_embeddings.projection"),
    "resnet": (_resnet, IMAGES, "resnet.encoder.stages.0.layers.0.layer.1.convolution"),
    "convnext": (_convnext, IMAGES, "convnext.encoder.stages.1.layers.0.dwconv"),
    "regnet": (_regnet, IMAGES, "regnet.encoder.stages.0.layers.0.layer.1.convolution"),
    "wav2vec2": (_wav2vec2, SOUND, "wav2vec2.feature_extractor.conv_layers.1.conv"),
    "whisper": (_whisper, MELS, "model.encoder.conv2"),
    "mamba": (_mamba, IDS, "backbone.layers.0.mixer.conv1d"),
}
kinds = pytest.mark.parametrize("kind", MODELS)


def tiny(kind):
    torch.manual_seed(0)
    model = MODELS[kind][0]().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) and "weight" in module._parameters:
            nn.init.normal_(module.weight, std=(module.weight[0].numel()) ** -0.5)
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, mean=float(tensor is module.weight), std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.requires_grad_(False)


@torch.no_grad()
def outputs(model, inputs):
    return model(**inputs).logits


def of(kind):
    model, (_, inputs, name) = tiny(kind), MODELS[kind]
    return model, inputs, name


def saved(model, directory):
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("preset", PRESETS)
@kinds
def test_every_way_to_a_quantized_model_gives_the_same_one(kind, preset, tmp_path):
    model, inputs, name = of(kind)
    loaded = type(model).from_pretrained(saved(model, tmp_path / "float"), quantization_config=HfQuantConfig(preset))
    expected = outputs(loaded, inputs)
    opened = loaded.get_submodule(name)
    assert isinstance(opened, OpenedConvolution) and isinstance(opened.filters, QuantizedModule)
    assert not [each for each in loaded.state_dict() if each.startswith(f"{name}.weight")]
    for other in (
        hf_quant.quantize(copy.deepcopy(model), preset, progress=False),
        type(model).from_pretrained(saved(loaded, tmp_path / "quantized")),
        copy.deepcopy(loaded),
        # Torch pickles no parametrized modules, such as wav2vec2's positions.
        loaded if kind == "wav2vec2" else pickle.loads(pickle.dumps(loaded)),
    ):
        assert torch.equal(outputs(other, inputs), expected)
    assert error(expected, outputs(model, inputs)) < (0.5 if "4" in preset else 0.08)
    restored = type(model).from_pretrained(tmp_path / "quantized").dequantize()
    assert restored.state_dict().keys() == model.state_dict().keys()
    assert type(restored.get_submodule(name)) is type(model.get_submodule(name))
    if preset.endswith("a16"):
        assert error(expected, outputs(restored, inputs)) < ROUNDING


@kinds
def test_half_precision_loads_saves_and_reloads(kind, tmp_path):
    model, inputs, _ = of(kind)
    half = {name: each.bfloat16() if each.is_floating_point() else each for name, each in inputs.items()}
    original = saved(copy.deepcopy(model).bfloat16(), tmp_path / "float")
    loaded = type(model).from_pretrained(original, quantization_config=HfQuantConfig("int8"), dtype=torch.bfloat16)
    expected = outputs(loaded, half)
    assert expected.dtype == outputs(type(model).from_pretrained(original, dtype=torch.bfloat16), half).dtype
    assert error(expected, outputs(model, inputs)) < 0.1
    reloaded = type(model).from_pretrained(saved(loaded, tmp_path / "int8"))
    assert torch.equal(outputs(reloaded, half), expected)


def samples(inputs):
    return [{name: each[index] for name, each in inputs.items()} for index in range(len(next(iter(inputs.values()))))]


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext", "regnet", "wav2vec2", "whisper"])
def test_static_inputs_are_calibrated_on_what_the_model_reads(kind, tmp_path):
    model, inputs, _ = of(kind)
    config = HfQuantConfig("int8-static", calibration=Calibration(samples(inputs), batch_size=2))
    quantized = hf_quant.quantize(copy.deepcopy(model), config, progress=False)
    expected = outputs(quantized, inputs)
    assert error(expected, outputs(model, inputs)) < 0.1
    filters = [each.filters for each in quantized.modules() if isinstance(each, OpenedConvolution)]
    assert filters and all(each.input_scale is not None for each in filters)
    assert torch.equal(outputs(type(model).from_pretrained(saved(quantized, tmp_path)), inputs), expected)


@pytest.mark.parametrize("kind", ["vit", "resnet", "wav2vec2"])
def test_gptq_loses_less_than_rounding(kind):
    model, inputs, _ = of(kind)
    calibration = Calibration(torch.utils.data.DataLoader(samples(inputs), batch_size=3))
    solved, rounded = (
        hf_quant.quantize(copy.deepcopy(model), HfQuantConfig("w4a16", **given), progress=False)
        for given in ({"recipe": Recipe(solver="gptq"), "calibration": calibration}, {})
    )
    expected = outputs(model, inputs)
    assert error(outputs(solved, inputs), expected) < error(outputs(rounded, inputs), expected)


def test_data_that_the_model_cannot_read_is_refused():
    model, _, _ = of("resnet")
    config = HfQuantConfig("int8-static", calibration=Calibration([{"image": "a cat"}, {"image": "a dog"}]))
    with pytest.raises(CalibrationError, match="texts need a tokenizer"):
        hf_quant.quantize(copy.deepcopy(model), config, progress=False)
    config = HfQuantConfig("int8-static", calibration=Calibration(list(IMAGES["pixel_values"])))
    with pytest.raises(CalibrationError, match="dicts with pixel_values"):
        hf_quant.quantize(copy.deepcopy(model), config, progress=False)
    holes = torch.full((3, 32, 32), torch.nan)
    config = HfQuantConfig("int8-static", calibration=Calibration([{"pixel_values": holes}]))
    with pytest.raises(CalibrationError, match="pixel_values holds NaN"):
        hf_quant.quantize(model, config, progress=False)


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext", "regnet", "whisper"])
def test_training_rounds_as_the_quantized_model_will(kind):
    model, inputs, name = of(kind)
    model.train().requires_grad_(True)
    prepare(model, "int8")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    child = model.get_submodule(name).filters
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs).logits.square().mean().backward()
        assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in child.parameters())
        optimizer.step()
    rounded = outputs(model.eval(), inputs)
    convert(model)
    assert isinstance(model.get_submodule(name).filters, QuantizedModule)
    assert error(outputs(model, inputs), rounded) < 2e-2


def test_data_without_what_a_decoder_reads_is_refused_with_its_name():
    model, inputs, _ = of("whisper")
    calibration = Calibration([{"input_features": each} for each in inputs["input_features"]])
    with pytest.raises(CalibrationError, match="add them to the data"):
        hf_quant.quantize(model, HfQuantConfig("int8-static", calibration=calibration), progress=False)


def test_plans_name_filters_and_what_is_float_keeps_its_names(tmp_path):
    model, inputs, name = of("resnet")
    original = saved(model, tmp_path / "float")
    config = HfQuantConfig("int8", modules_to_not_convert=["convolution"])
    floats = type(model).from_pretrained(original, quantization_config=config)
    assert type(floats.get_submodule(name)) is nn.Conv2d
    config = HfQuantConfig("w8a16", overrides={f"{name}.filters": "w4a16"})
    mixed = type(model).from_pretrained(original, quantization_config=config)
    assert mixed.get_submodule(name).filters.spec.scheme.weight.bits == 4
    reloaded = type(model).from_pretrained(saved(mixed, tmp_path / "mixed"))
    assert torch.equal(outputs(reloaded, inputs), outputs(mixed, inputs))


def test_a_weight_with_nan_is_refused_by_its_name(tmp_path):
    model, _, name = of("vit")
    with torch.no_grad():
        model.get_submodule(name).weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(WeightError, match="projection"):
        type(model).from_pretrained(saved(model, tmp_path), quantization_config=HfQuantConfig("int8"))


@kinds
def test_the_check_finds_nothing_wrong(kind):
    model, _, _ = of(kind)
    report = hf_quant.check(hf_quant.quantize(model, "w8a16", progress=False))
    assert report.is_right, str(report)


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext", "regnet", "whisper"])
def test_it_compiles_in_one_graph(kind):
    model, inputs, _ = of(kind)
    quantized = hf_quant.quantize(model, "int8", progress=False)
    expected = outputs(quantized, inputs)
    compiled = torch.compile(quantized, fullgraph=True, backend="aot_eager")
    assert error(outputs(compiled, inputs), expected) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", ["fp16", "bf16", "int16"])
def test_weights_look_as_the_model_computes_and_are_not_drawn_anew(preset, dtype, tmp_path):
    # CLIP casts images to the dtype of its filters, and draws these where it takes them for new.
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(0)
    model = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=8)).eval().to(dtype)
    quantized = hf_quant.quantize(copy.deepcopy(model), preset, progress=False)
    weight = quantized.embeddings.patch_embedding.weight
    assert weight.dtype == dtype and weight.shape == (64, 3, 8, 8)
    with torch.no_grad():
        expected = quantized(**IMAGES).last_hidden_state
        assert expected.dtype == dtype and error(expected.float(), model(**IMAGES).last_hidden_state.float()) < 0.02
        reloaded = CLIPVisionModel.from_pretrained(saved(quantized, tmp_path))
        assert torch.equal(reloaded(**IMAGES).last_hidden_state, expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of PEFT's own
@pytest.mark.parametrize("target", ["projection", "filters"])
def test_adapters_train_beside_filters(target):
    peft = pytest.importorskip("peft")
    model, inputs, _ = of("vit")
    quantized = hf_quant.quantize(model, "int8", progress=False)
    expected = outputs(quantized, inputs)
    adapted = peft.get_peft_model(quantized, peft.LoraConfig(target_modules=[target], r=4))
    assert error(outputs(adapted, inputs), expected) < 1e-5
    adapted(**inputs).logits.square().mean().backward()
    trained = [parameter for name, parameter in adapted.named_parameters() if "lora_B" in name]
    assert len(trained) == 1 and trained[0].grad.abs().sum() > 0
    with torch.no_grad():
        trained[0].normal_(std=0.05)
    adapted.eval()
    changed = outputs(adapted, inputs)
    assert error(changed, expected) > 0.01
    if target == "filters":
        with pytest.warns(UserWarning, match="rounds them again"):
            assert error(outputs(adapted.merge_and_unload(), inputs), changed) < 0.05
    else:
        with pytest.raises(QuantizedWeightError, match="dequantize"):
            adapted.merge_and_unload()


@pytest.mark.parametrize("kind", ["resnet", "regnet"])
@pytest.mark.parametrize("measure", ["kl", "output-error", "fisher"])
def test_plans_are_searched_for_images(kind, measure):
    model, inputs, _ = of(kind)
    labels = torch.arange(6) % 5
    batches = [{"pixel_values": inputs["pixel_values"][i : i + 2], "labels": labels[i : i + 2]} for i in (0, 2, 4)]
    plan, report = hf_quant.search_plan(model, batches, "45%", measure=measure, progress=False, measurements=1)
    assert report.bytes <= 0.45 * report.float_bytes
    assert sum(name.endswith(".filters") for name in plan.modules) > 7
    quantized = hf_quant.quantize(model, HfQuantConfig(plan=plan), progress=False)
    assert outputs(quantized, inputs).isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, name: tensors.update({f"{name}.weight": tensors[f"{name}.weight"][:, :-1].contiguous()}),
        lambda tensors, name: tensors[f"{name}.weight_scale"].fill_(torch.nan),
        lambda tensors, name: tensors.pop(f"{name}.weight_scale"),
    ],
    ids=["shape", "NaN", "missing"],
)
def test_a_checkpoint_that_was_tampered_with_is_refused_by_name(change, tmp_path):
    model, _, name = of("resnet")
    saved(hf_quant.quantize(model, "int8", progress=False), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors, f"{name}.filters")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"filters"):
        type(model).from_pretrained(tmp_path)


def test_sizes_that_do_not_fit_the_weight_leave_it_float_with_the_reason():
    model, _, name = of("convnext")
    model.get_submodule(name).groups = 5  # as a config that was edited might make it
    quantized = hf_quant.quantize(model, "int8", progress=False)
    assert type(quantized.get_submodule(name)) is nn.Conv2d
    assert "no quantized counterpart for Conv2d" in quantized.config.quantization_config.kept_float[name]


WRITES = {
    "zero_": lambda weight: weight.zero_(),
    "an element": lambda weight: weight.__setitem__((0, 0), 1.0),
    "data": lambda weight: weight.data.mul_(2),
    "out": lambda weight: torch.ones(weight.shape, out=weight),
    "normal_": nn.init.normal_,
    "kaiming_uniform_": nn.init.kaiming_uniform_,
    "constant_": lambda weight: nn.init.constant_(weight, 1.0),
    "zeros_": nn.init.zeros_,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("preset", ["int8", "fp16"])
def test_writes_to_a_weight_that_would_be_lost_are_refused(preset, write):
    model, inputs, name = of("vit")
    quantized = hf_quant.quantize(model, preset, progress=False)
    expected = outputs(quantized, inputs)
    with torch.no_grad(), pytest.raises(QuantizedWeightError):
        write(quantized.get_submodule(name).weight)
    with pytest.raises(QuantizedWeightError, match="filters"):
        quantized.get_submodule(name).weight = nn.Parameter(torch.ones(64, 3, 8, 8))
    assert torch.equal(outputs(quantized, inputs), expected)
