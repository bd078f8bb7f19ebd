"""The page of models says what the records say."""

import json

import torch

from benchmarks.model_parts import PARTS, TRIALS, class_named, parts_of, sort_of
from benchmarks.models_page import PAGE, page
from tests.integration.tiny import tiny_model


def trial(name, verdict="right", **more):
    return [{"type": name, "preset": preset, "class": verdict, "stage": "all", **more} for preset in ("int8", "w4a16")]


def part(sort="decoders", quantized=None, left=None):
    return {"model": "X", "sort": sort, "quantized": quantized or {"linear": 0.999}, "float": left or {}}


def row(text, name):
    (found,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_page_is_the_one_that_the_records_make():
    trials, parts = (json.loads(path.read_text(encoding="utf-8")) for path in (TRIALS, PARTS))
    assert PAGE.read_text(encoding="utf-8") == page(trials, parts), "run python -m benchmarks.models_page"


def test_every_type_of_the_record_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert [each["type"] for each in json.loads(TRIALS.read_text()) if f"`{each['type']}`" not in text] == []


def test_types_that_are_right_and_whole_are_listed_by_what_is_quantized():
    parts = {"a": part(), "b": part(quantized={"linear": 0.5, "expert": 0.499}), "c": part("vision")}
    text = page([*trial("b"), *trial("a"), *trial("c")], parts)
    assert "- linears (1): `a`\n- linears and experts (1): `b`" in text
    assert text.index("## Decoders") < text.index("`b`") < text.index("## Vision") < text.index("`c`")
    assert "| `int8` | 3 | 0 |" in text and "| at least 99 % | 3 |" in text


def test_what_stays_float_has_a_row_with_its_reason():
    left = {"no quantized counterpart for ConvTranspose2d": 0.3, "biases of quantized modules": 0.01}
    text = page(trial("a"), {"a": part(quantized={"linear": 0.69}, left=left)})
    assert row(text, "a") == ["`a`", "linears 69 %", "30 % no quantized counterpart for ConvTranspose2d", "right"]


def test_what_is_not_right_has_a_row_that_says_in_which_preset():
    one, other = trial("a", "wrong", error="")[0] | {"stage": "reload"}, trial("a")[1]
    text = page([one, other, *trial("b", "refused", error="PlanError: no")], {"a": part(), "b": part()})
    assert row(text, "a")[-1] == "`int8` wrong: at reload; `w4a16` right"
    assert row(text, "b")[-1] == "refused: PlanError: no"


def test_types_that_were_not_built_are_listed_by_the_reason():
    errors = {
        "a": "LookupError: no model class has this config",
        "b": "MemoryError: 9 parameters",
        "c": "KeyError: 'x'",
    }
    text = page([each for name, error in errors.items() for each in trial(name, "not built", error=error)], {})
    assert "no class of their own (1): `a`" in text
    assert "even when shrunk (1): `b`" in text and "that runs (1): `c`" in text


def test_parts_are_shares_of_all_weights_counted_once():
    model = tiny_model("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = parts_of(model)
    counts = {"linear": 0, "embedding": 0}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            counts["embedding" if isinstance(module, torch.nn.Embedding) else "linear"] += module.weight.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    counts["linear"] -= model.bert.embeddings.word_embeddings.weight.numel()  # the decoder's is the same
    assert {kind: round(share * total) for kind, share in found["quantized"].items()} == counts
    assert found["float"].keys() == {"biases of quantized modules", "normalisation: few weights, sensitive"}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_classes_are_sorted_by_what_they_read():
    names = {
        ("bert", "BertForMaskedLM"): "encoders",
        ("llama", "LlamaForCausalLM"): "decoders",
        ("t5", "T5ForConditionalGeneration"): "encoder-decoders",
        ("vit", "ViTModel"): "vision",
        ("wav2vec2", "Wav2Vec2ForCTC"): "audio",
        ("whisper", "WhisperForConditionalGeneration"): "audio",
        ("llava", "LlavaForConditionalGeneration"): "multimodal",
    }
    assert {key: sort_of(class_named(key[1], key[0])) for key in names} == names
