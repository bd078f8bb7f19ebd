"""Families of models, small and with random weights, keep all promises; `make test-slow` asks all types the same."""

import json

import pytest
import torch

import hf_quant
from benchmarks.model_parts import TRIALS, class_named, model_of, parts_of, recorded_classes
from benchmarks.model_trial import NOT_BUILT, RIGHT, trial
from benchmarks.small_configs import LEVELS, VOCABULARY, small_config
from hf_quant.modules.state import stored_state
from tests.naming import naming

ENCODERS = {
    "bert": 0.99,
    "roberta": 0.99,
    "distilbert": 0.99,
    "albert": 0.99,
    "deberta-v2": 0.99,
    "electra": 0.99,
    "modernbert": 0.99,
    "mpnet": 0.99,
    "nomic_bert": 0.99,
    "longformer": 0.99,
}
DECODERS = {
    "gpt2": 0.99,
    "gpt_neox": 0.99,
    "opt": 0.99,
    "bloom": 0.98,
    "falcon": 0.99,
    "phi": 0.99,
    "llama": 0.99,
    "mistral": 0.99,
    "qwen2": 0.99,
    "qwen3": 0.99,
    "gemma2": 0.99,
    "gemma3_text": 0.99,
    "cohere": 0.99,
    "mamba": 0.98,
    "rwkv": 0.99,
}
MIXTURES = {"mixtral": 0.98, "qwen3_moe": 0.98, "gpt_oss": 0.97, "deepseek_v3": 0.98, "llama4_text": 0.98}
# T5 keeps a third of its feed-forward layers in float32, by its class; Marian computes its positions.
PAIRS = {"t5": 0.71, "bart": 0.99, "m2m_100": 0.99, "marian": 0.97}
SENSES = {
    "whisper": 0.97,
    "wav2vec2": 0.6,
    "vit": 0.98,
    "clip": 0.85,
    "resnet": 0.99,
    "convnext": 0.99,
    "swin": 0.99,
    "llava": 0.99,
    "qwen3_vl": 0.99,
}
FAMILIES = {**ENCODERS, **DECODERS, **MIXTURES, **PAIRS, **SENSES}
"""Model types to the least share of their weights that is quantized, at true widths; of mixtures, which are slow to
look through at these, of small ones."""
# T5's default config names no token to begin with.
WRITERS = {*DECODERS, *MIXTURES, "bart", "m2m_100", "marian", "whisper", "llava", "qwen3_vl"}
ALSO_INT4 = {"bert", "gpt2", "llama", "gemma3_text", "mamba", "mixtral", "gpt_oss", "bart", "vit", "llava"}
SECONDS = 60
RECORDED = {}
for each in json.loads(TRIALS.read_text(encoding="utf-8")):
    if each["class"] != NOT_BUILT and "process ended" not in each.get("error", ""):
        RECORDED.setdefault(each["type"], {})[each["preset"]] = each["class"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_what_its_weights_stand_for_however_it_was_made(family):
    """In memory, on the fly, with exact arithmetic, dequantized, saved and loaded, and writing."""
    presets = ["int8", "w4a16", *(["int4"] if family in ALSO_INT4 else [])]
    for found in trial(family, presets, SECONDS):
        with naming(found["preset"]):
            assert (found["class"], found["stage"]) == (RIGHT, "all"), found
            assert "generated" in found or family not in WRITERS


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gemma2", "mixtral", "bart"])
def test_fixed_grids_of_a_family_come_from_data_and_are_kept(family, tmp_path):
    torch.manual_seed(0)
    model_class = class_named(recorded_classes()[family], family)
    model_class(small_config(family)).save_pretrained(tmp_path / "float")
    rows = [row.tolist() for row in torch.randint(4, VOCABULARY, (16, 24))]
    data = hf_quant.Calibration(rows, samples=16, sequence_length=24, packing=False)
    config = hf_quant.HfQuantConfig("int8-static", calibration=data)
    load = model_class.from_pretrained
    model = hf_quant.quantize(load(tmp_path / "float", dtype=torch.float32).eval(), config, progress=False)
    assert hf_quant.check(model).is_right
    model.save_pretrained(tmp_path / "static")
    kept = stored_state(model, model.state_dict())
    assert any(name.endswith("input_scale") for name in kept)
    for again in (
        load(tmp_path / "static"),
        load(tmp_path / "float", quantization_config=config, dtype=torch.float32),
    ):
        found = stored_state(again, again.state_dict())
        assert found.keys() == kept.keys()
        assert [name for name in kept if not torch.equal(found[name], kept[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_no_more_of_a_family_stays_float_than_is_known(family):
    levels = (LEVELS[0] if family in MIXTURES else LEVELS[-1],)
    parts = parts_of(model_of(family, recorded_classes()[family], levels))
    assert sum(parts["quantized"].values()) + sum(parts["float"].values()) == pytest.approx(1)
    assert sum(parts["quantized"].values()) >= FAMILIES[family], parts["float"]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", RECORDED)
def test_every_type_is_what_the_record_of_the_benchmark_says(model_type):
    classes = RECORDED[model_type]
    assert {each["preset"]: each["class"] for each in trial(model_type, list(classes), SECONDS)} == classes
