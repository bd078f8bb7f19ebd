"""How a model is run on calibration data, and what is told before anything of it changes."""

import copy
import logging

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    UdopConfig,
    UdopEncoderModel,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import hf_quant
from hf_quant.errors import CalibrationError
from hf_quant.evaluation.float_outputs import float_outputs, relative_error
from hf_quant.modules.swap import quantized_modules
from tests.integration.tiny import tiny_model

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def images():
    return {"pixel_values": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def vit():
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**SIZES, image_size=32, patch_size=8)).eval()


def swin():
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
    return SwinForImageClassification(SwinConfig(**sizes, image_size=32, patch_size=4)).eval()


def speech():
    generator = torch.Generator().manual_seed(0)
    return {
        "input_features": torch.randn(2, 16, 40, generator=generator),
        "decoder_input_ids": torch.randint(3, 90, (2, 6), generator=generator),
    }


def whisper():
    torch.manual_seed(0)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    widths = {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_mel_bins": 16, "vocab_size": 96}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)
    config = WhisperConfig(**heads, **widths, **special, max_source_positions=20, max_target_positions=16)
    return WhisperForConditionalGeneration(config).eval()


def static(model, data, **options):
    calibration = hf_quant.Calibration([data])
    config = hf_quant.HfQuantConfig("int8-static", calibration=calibration, **options)
    return hf_quant.quantize(model, config, progress=False)


@torch.no_grad()
def outputs(model, data):
    return list(float_outputs(model(**data).logits))


@pytest.mark.parametrize(("made", "data"), [(vit, images), (swin, images), (whisper, speech)])
def test_images_and_sounds_set_static_grids(made, data):
    expected = outputs(made(), data())
    model = static(made(), data())
    assert any(module.input_scale is not None for _, module in quantized_modules(model))
    assert relative_error(outputs(model, data()), expected) < 0.05
    assert hf_quant.check(model, data()).is_right


def test_grids_of_a_model_that_goes_block_by_block_come_from_blocks():
    assert static(vit(), images()).hf_quantizer.block_errors


def test_a_model_whose_blocks_change_shapes_is_observed_whole(caplog):
    with caplog.at_level(logging.WARNING, logger="hf_quant"):
        model = static(swin(), images())
    assert not model.hf_quantizer.block_errors
    assert "is run as a whole, not block by block" in caplog.text


def test_grids_observed_on_the_whole_cover_what_linears_get():
    model, seen = swin(), []
    layers = model.swin.encoder.layers[1].named_modules()
    name = next(each for each, module in layers if isinstance(module, torch.nn.Linear))
    linear = model.swin.encoder.layers[1].get_submodule(name)
    linear.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    outputs(model, images())
    module = static(swin(), images()).swin.encoder.layers[1].get_submodule(name)
    spread = float(seen[0].max() - seen[0].min())
    assert 0.8 * spread < 255 * float(module.input_scale) < 1.1 * spread


def test_what_the_data_does_not_reach_is_named_before_the_model_changes():
    model = swin()
    idle = torch.nn.Linear(64, 64)
    model.swin.idle = idle
    with pytest.raises(CalibrationError, match=r"does not reach swin\.idle: .*modules_to_not_convert=\['swin\.idle'\]"):
        static(model, images())
    assert not any(quantized_modules(model))
    static(model, images(), modules_to_not_convert=["swin.idle"])
    assert model.swin.idle is idle


def test_a_decoder_that_does_not_say_how_it_starts_is_refused_before_the_model_changes():
    model = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4))
    with pytest.raises(CalibrationError, match="decoder_start_token_id"):
        static(model, {"input_ids": torch.randint(3, 60, (2, 8))})
    assert not any(quantized_modules(model))


def test_inputs_that_the_model_does_not_take_are_named():
    model = swin()
    with pytest.raises(CalibrationError, match="cannot be called with pixel_value of"):
        static(model, {"pixel_value": torch.randn(1, 3, 32, 32)})
    assert not any(quantized_modules(model))


def test_a_table_outside_of_blocks_that_is_tied_to_one_within_is_read_as_it_is(tmp_path):
    # Codes of the second are made when its block is; until then the first has none of its own.
    torch.manual_seed(0)
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 96}
    model = UdopEncoderModel(UdopConfig(**sizes, image_size=16, patch_size=8)).eval()
    for embedding in (module for module in model.modules() if isinstance(module, torch.nn.Embedding)):
        torch.nn.init.normal_(embedding.weight)
    model.save_pretrained(tmp_path)
    model = UdopEncoderModel.from_pretrained(tmp_path)
    tables = (model.encoder.block[0].layer[0].SelfAttention, model.encoder.relative_bias.biases[0])
    assert tables[0].relative_attention_bias.weight is tables[1].relative_attention_bias.weight
    generator = torch.Generator().manual_seed(0)
    data = {
        "input_ids": torch.randint(5, 96, (2, 8), generator=generator),
        "bbox": torch.rand(2, 8, 4, generator=generator),
        "pixel_values": torch.randn(2, 3, 16, 16, generator=generator),
    }
    seen = []
    model.encoder.relative_bias.biases[0].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        model(**data)
    torch.nn.init.normal_(torch.empty(2**16))  # memory that was used holds numbers
    assert static(model, data).hf_quantizer.block_errors
    assert len(seen) > 3
    for output in seen[1:]:
        torch.testing.assert_close(output, seen[0], atol=0.02 * float(seen[0].abs().max()), rtol=0)


@pytest.mark.parametrize("owner", [0, 1])
def test_linears_of_two_blocks_with_one_weight_compute_with_it_while_calibrating(owner):
    model = tiny_model("llama")
    first, second = (layer.mlp for layer in model.model.layers)
    second.down_proj.weight = first.down_proj.weight
    if owner:
        model.all_tied_weights_keys = {"model.layers.0.mlp.down_proj.weight": "model.layers.1.mlp.down_proj.weight"}
    ids = torch.randint(3, 100, (4, 16), generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(torch.empty(2**18))  # memory that was used holds numbers
    with torch.no_grad():
        expected = model(ids).logits
    quantized = static(model, {"input_ids": ids})
    assert all(error < 0.1 for error in quantized.hf_quantizer.block_errors.values())
    assert len(quantized.hf_quantizer.block_errors) == 2
    first, second = (layer.mlp.down_proj for layer in quantized.model.layers)
    assert first.weight is second.weight and first.input_scale is not None and second.input_scale is not None
    with torch.no_grad():
        assert relative_error([quantized(ids).logits], [expected]) < 0.1


def test_a_model_that_calls_one_block_several_times_loses_less_by_gptq_than_by_rounding():
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "embedding_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = AlbertForMaskedLM(AlbertConfig(**sizes, hidden_size=64, intermediate_size=128)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    ids = torch.randint(5, 120, (16, 24), generator=torch.Generator().manual_seed(0))
    expected = outputs(model, {"input_ids": ids})
    solved = {"recipe": hf_quant.Recipe(solver="gptq"), "calibration": hf_quant.Calibration([{"input_ids": ids}])}
    errors = []
    for options in (solved, {}):
        config = hf_quant.HfQuantConfig("w4a16", **options)
        quantized = hf_quant.quantize(copy.deepcopy(model), config, progress=False)
        errors.append(relative_error(outputs(quantized, {"input_ids": ids}), expected))
    assert errors[0] < 0.5 * errors[1]
