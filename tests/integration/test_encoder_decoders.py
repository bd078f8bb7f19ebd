"""Models whose encoder, decoder and head read one table, and models whose head is not where others have it."""

import copy
import functools

import pytest
import torch
import transformers as T
from safetensors.torch import load_file, save_file

import hf_quant
from hf_quant import HfQuantConfig, Plan
from hf_quant.config.presets import PRESETS
from hf_quant.modules.inventory import Inventory
from hf_quant.quantizing.resolve import resolve
from tests.integration.calibration_data import calibration
from tests.integration.tiny import error, tiny_model, token_ids
from tests.naming import naming

SIZES = {"vocab_size": 128, "d_model": 64, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
T5 = {**SIZES, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
BART = {
    **SIZES,
    "bos_token_id": 0,
    "forced_eos_token_id": None,
    **{
        f"{part}_{what}": number
        for part in ("encoder", "decoder")
        for what, number in (("layers", 2), ("ffn_dim", 128))
    },
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
ONE_TABLE = {
    "t5": (T.T5ForConditionalGeneration, T.T5Config(**T5)),
    "t5-gated": (T.T5ForConditionalGeneration, T.T5Config(**T5, feed_forward_proj="gated-gelu")),
    "mt5": (T.MT5ForConditionalGeneration, T.MT5Config(**T5)),
    "marian": (T.MarianMTModel, T.MarianConfig(**BART, decoder_vocab_size=128, max_position_embeddings=64)),
    "pegasus": (T.PegasusForConditionalGeneration, T.PegasusConfig(**BART, max_position_embeddings=64)),
    "led": (T.LEDForConditionalGeneration, T.LEDConfig(**BART, attention_window=8, max_encoder_position_embeddings=64)),
}
BLIP_TEXT = {"encoder_hidden_size": 64, "projection_dim": 64, "max_position_embeddings": 64, "bos_token_id": 0}
BLIP_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
BLIP = T.BlipConfig(
    text_config={**BLIP_SIZES, **BLIP_TEXT, "vocab_size": 128, "sep_token_id": 2, "eos_token_id": 2},
    vision_config={**BLIP_SIZES, "image_size": 32, "patch_size": 8},
)
OTHERS = {
    "bart": (T.BartForConditionalGeneration, T.BartConfig(**BART, max_position_embeddings=64)),
    "blip": (T.BlipForConditionalGeneration, BLIP),
}
MODELS = {**ONE_TABLE, **OTHERS}
every_model = pytest.mark.parametrize("name", MODELS)
every_preset = pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset != "int8-static"])


def make(name):
    """A float model whose outputs depend on every weight."""
    model_class, config = MODELS[name]
    torch.manual_seed(0)
    model = model_class(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 2 and parameter.requires_grad:
                # T5 leaves it to the weights of queries to keep scores small.
                parameter.normal_(std=0.25 * 64**-0.5 if "Attention.q." in parameter_name else 64**-0.5)
            elif parameter_name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


@torch.no_grad()
def outputs(model):
    """Logits of a decoder on what its encoder reads."""
    decoded = token_ids(length=6, seed=1)
    if isinstance(model, T.BlipForConditionalGeneration):
        image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return model(pixel_values=image.to(model.dtype), input_ids=decoded).logits.clone()
    return model(input_ids=token_ids(), decoder_input_ids=decoded).logits.clone()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of float checkpoints, each made once."""

    @functools.cache
    def directory(name):
        path = tmp_path_factory.mktemp(name)
        make(name).save_pretrained(path)
        return path

    return directory


@pytest.fixture(scope="module")
def float_outputs():
    """Outputs of float models, each computed once."""
    return functools.cache(lambda name: outputs(make(name)))


@pytest.fixture(scope="module")
def planned():
    """Float models that are only looked at, and what shares a weight in them."""

    @functools.cache
    def model_and_ties(name):
        model = make(name)
        return model, Inventory.of(model).ties

    return model_and_ties


def tolerance(preset):
    """Of the logits of two layers of random weights."""
    return {"fp32": 1e-5, "fp16": 5e-3, "int16": 1e-3}.get(preset, 0.03 if preset == "bf16" else 0.08)


@every_preset
@every_model
def test_quantized_while_loading_and_in_memory_it_is_near_the_float_model_and_reloads_bit_for_bit(
    name, preset, saved, float_outputs, tmp_path
):
    limit = 0.5 if "4" in preset else tolerance(preset)
    model_class = MODELS[name][0]
    loaded = model_class.from_pretrained(saved(name), quantization_config=HfQuantConfig(preset)).eval()
    expected = outputs(loaded)
    assert error(expected, float_outputs(name)) < limit
    quantized = hf_quant.quantize(make(name), preset, progress=False)
    assert torch.equal(outputs(quantized), expected)
    for way, model in {"loaded": loaded, "in memory": quantized}.items():
        with naming(way):
            model.save_pretrained(tmp_path / way)
            reloaded = model_class.from_pretrained(tmp_path / way).eval()
            assert torch.equal(outputs(reloaded), expected)
            reloaded.save_pretrained(tmp_path / "again")
            assert torch.equal(outputs(model_class.from_pretrained(tmp_path / "again").eval()), expected)


@pytest.mark.parametrize("preset", PRESETS)
@every_model
def test_every_preset_gives_all_that_share_a_weight_one_scheme(name, preset, planned):
    model, ties = planned(name)
    plan = resolve(model, HfQuantConfig(preset)).plan.modules
    for target, owner in ties.items():
        assert name == "bart" or plan[target].weight == plan[owner].weight == PRESETS[preset].embedding.weight


@every_preset
@pytest.mark.parametrize("name", ONE_TABLE)
def test_one_table_gets_one_set_of_codes_and_the_scheme_of_embeddings(name, preset):
    model = make(name)
    table = model.get_input_embeddings().weight
    members = [each for each, module in model.named_modules() if getattr(module, "weight", None) is table]
    assert len(members) == 4 and "lm_head" in members
    hf_quant.quantize(model, preset, progress=False)
    modules = [model.get_submodule(each) for each in members]
    assert len({id(module.weight) for module in modules}) == 1
    schemes = {model.config.quantization_config.plan.modules[each].weight for each in members}
    assert schemes == {PRESETS[preset].scheme_for("embedding", 64).weight}


@pytest.mark.parametrize("preset", ["int8", "int4", "bf16"])
@pytest.mark.parametrize("kept", ["shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"])
def test_whichever_name_the_file_has_for_the_table_all_of_it_is_read(kept, preset, saved, tmp_path):
    tensors = load_file(saved("t5") / "model.safetensors")
    tensors[f"{kept}.weight"] = tensors.pop("shared.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    MODELS["t5"][1].save_pretrained(tmp_path)
    model_class = T.T5ForConditionalGeneration
    loaded = model_class.from_pretrained(tmp_path, quantization_config=HfQuantConfig(preset)).eval()
    assert torch.equal(outputs(loaded), outputs(hf_quant.quantize(make("t5"), preset, progress=False)))


@pytest.mark.parametrize("preset", ["int8", "int4", "bf16"])
@pytest.mark.parametrize("table", ["shared", "encoder.embed_tokens", "decoder.embed_tokens"])
def test_a_head_of_its_own_is_what_float_makes_of_it(table, preset, saved, tmp_path):
    tensors = load_file(saved("t5-gated") / "model.safetensors")
    tensors[f"{table}.weight"] = tensors.pop("shared.weight")
    tensors["lm_head.weight"] = tensors[f"{table}.weight"].flip(0) * 2
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    MODELS["t5-gated"][1].save_pretrained(tmp_path)
    model_class = T.T5ForConditionalGeneration
    expected = outputs(model_class.from_pretrained(tmp_path).eval())
    loaded = model_class.from_pretrained(tmp_path, quantization_config=HfQuantConfig(preset)).eval()
    assert loaded.lm_head.weight is not loaded.shared.weight
    assert error(outputs(loaded), expected) < (0.5 if preset == "int4" else 0.08)


def test_a_head_untied_in_memory_keeps_its_own_weight_whatever_the_class_declares():
    for model in (make("t5"), tiny_model("llama")):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0) * 3)
        expected = model.lm_head.weight.detach().clone()
        assert "lm_head" not in Inventory.of(model).ties
        hf_quant.quantize(model, "int8", progress=False)
        assert error(model.lm_head.dequantized_weight(), expected) < 0.02


class ReadsItsTable(torch.nn.Embedding):
    """Nothing that a quantized embedding could compute."""

    def forward(self, ids):
        return self.weight[ids].abs()


def test_a_table_tied_to_one_that_cannot_be_quantized_stays_float_and_says_why():
    model = make("bart")
    model.model.decoder.embed_tokens.__class__ = ReadsItsTable
    hf_quant.quantize(model, "int8", progress=False)
    reason = model.config.quantization_config.kept_float["lm_head"]
    assert reason == "tied to model.decoder.embed_tokens, which stays float"


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_a_table_under_several_names_is_quantized_under_all_of_them(name):
    model = make(name)
    model.resize_token_embeddings(160)
    assert model.get_encoder().embed_tokens.weight is model.lm_head.weight
    expected = outputs(model)
    hf_quant.quantize(model, "int8", progress=False)
    assert error(outputs(model), expected) < 0.08
    assert model.get_encoder().embed_tokens.weight is model.get_decoder().embed_tokens.weight is model.lm_head.weight


@pytest.mark.parametrize("table", ["shared", "encoder.embed_tokens", "decoder.embed_tokens"])
def test_a_head_of_its_own_is_reloaded_bit_for_bit(table, saved, tmp_path):
    tensors = load_file(saved("t5-gated") / "model.safetensors")
    tensors[f"{table}.weight"] = tensors.pop("shared.weight")
    tensors["lm_head.weight"] = tensors[f"{table}.weight"].flip(0) * 2
    (tmp_path / "float").mkdir()
    save_file(tensors, tmp_path / "float" / "model.safetensors", {"format": "pt"})
    MODELS["t5-gated"][1].save_pretrained(tmp_path / "float")
    model_class = T.T5ForConditionalGeneration
    loaded = model_class.from_pretrained(tmp_path / "float", quantization_config=HfQuantConfig("int8")).eval()
    loaded.save_pretrained(tmp_path / "int8")
    assert torch.equal(outputs(model_class.from_pretrained(tmp_path / "int8").eval()), outputs(loaded))


@pytest.mark.parametrize("preset", ["int8", "int4", "bf16"])
@pytest.mark.parametrize("name", ["marian", "t5"])
def test_a_table_under_several_names_is_reloaded_bit_for_bit(name, preset, tmp_path):
    model = make(name)
    model.resize_token_embeddings(160)
    hf_quant.quantize(model, preset, progress=False)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(MODELS[name][0].from_pretrained(tmp_path).eval()), outputs(model))


@pytest.mark.parametrize("name", ["t5", "t5-gated", "bart", "marian"])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_both_stacks_are_calibrated(name, stack):
    names = [each for each, found in Inventory.of(make(name)).candidates.items() if found.kind == "linear"]
    plan = Plan({each: PRESETS["w4a16"].linear for each in names if f"{stack}." in each})
    gptq = HfQuantConfig(plan=plan, recipe={"solver": "gptq"}, calibration=calibration())
    nearest, solved = (hf_quant.quantize(make(name), each, progress=False) for each in (HfQuantConfig(plan=plan), gptq))
    ids = token_ids(rows=32, length=32, seed=9)
    with torch.no_grad():
        expected, *found = (
            each(input_ids=ids, decoder_input_ids=ids[:, :8]).logits for each in (make(name), nearest, solved)
        )
    assert error(found[1], expected) < error(found[0], expected)
