import pytest
import torch
from transformers import (
    BartConfig,
    BartModel,
    CanineConfig,
    CanineModel,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperModel,
)

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.random_inputs import run_on_random_inputs

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DECODING = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def taken(model):
    with torch.no_grad():
        inputs, output = run_on_random_inputs(model.eval(), lambda given: model(**given))
    assert output is not None
    return {name: tuple(tensor.shape) for name, tensor in inputs.items()}


def test_an_encoder_decoder_gets_ids_for_both():
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    model = BartModel(BartConfig(**DECODING, **HEADS, vocab_size=64, **ids))
    assert taken(model) == {"input_ids": (2, 16), "decoder_input_ids": (2, 16)}


def test_speech_is_as_long_as_the_model_reads():
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    model = WhisperModel(WhisperConfig(**DECODING, **HEADS, vocab_size=64, max_source_positions=20, **tokens))
    assert taken(model) == {"input_features": (1, 80, 40), "decoder_input_ids": (1, 16)}


def test_a_waveform_is_a_second_long():
    sizes = {**SIZES, "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
    model = Wav2Vec2Model(Wav2Vec2Config(**sizes, num_conv_pos_embedding_groups=2))
    assert taken(model) == {"input_values": (1, 16000)}


def test_texts_and_images_come_together_where_a_model_needs_both():
    text = {**SIZES, "vocab_size": 64, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**SIZES, "image_size": 16, "patch_size": 8}))
    assert taken(model) == {"input_ids": (2, 16), "pixel_values": (1, 3, 16, 16)}


def test_special_tokens_are_left_out():
    ids = {"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 3}
    model = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=6, **ids))
    inputs, _ = run_on_random_inputs(model, lambda given: model(**given))
    assert set(inputs["input_ids"].unique().tolist()) == {4, 5}


def test_a_model_that_reads_something_else_is_told_with_what_was_tried():
    class Other(LlamaForCausalLM):
        def forward(self, waves):
            return waves

    model = Other(LlamaConfig(**SIZES, vocab_size=64))
    with pytest.raises(EvaluationError, match="inputs="):
        run_on_random_inputs(model, lambda given: model(**given))


def test_a_vocabulary_that_is_not_known_is_told():
    sizes = {"num_hash_buckets": 64, "upsampling_kernel_size": 2, "local_transformer_stride": 16}
    model = CanineModel(CanineConfig(**SIZES, **sizes))
    with pytest.raises(EvaluationError, match="vocabulary of CanineModel"):
        run_on_random_inputs(model, lambda given: model(**given))


def test_a_class_with_several_main_inputs_is_called_with_what_is_known_of_them():
    class Both(CLIPModel):
        main_input_name = ["input_ids", "pixel_values"]  # noqa: RUF012

    text = {**SIZES, "vocab_size": 64, "projection_dim": 16}
    vision = {**SIZES, "image_size": 32, "patch_size": 16, "projection_dim": 16}
    model = Both(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    inputs, _ = run_on_random_inputs(model, lambda given: model(**given))
    assert set(inputs) == {"input_ids", "pixel_values"}
