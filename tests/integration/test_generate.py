"""Generation and pipelines on quantized models."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_quant import HfQuantConfig
from tests.integration.tiny import outputs, tiny_model, token_ids

GREEDY = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


@pytest.fixture(params=["gpt2", "llama", "llama-gqa"])
def name(request):
    return request.param


@pytest.mark.parametrize("preset", ["int8", "w8a16", "int4"])
def test_generating_with_a_cache_gives_the_tokens_of_the_whole_sequence(name, preset, load, monkeypatch):
    # The int4 kernel sums in bfloat16, and differently for one token than for many; exact kernels do not.
    monkeypatch.setenv("HF_QUANT_KERNEL", "aten_dequantize")
    model, ids = load(name, preset), token_ids()
    cached = model.generate(ids, **GREEDY)
    assert cached.shape == (2, 28)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **GREEDY))
    whole = outputs(model, cached)
    assert torch.equal(whole[:, 15:-1].argmax(-1), cached[:, 16:])


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_the_fastest_kernels_generate_what_the_whole_sequence_makes_likeliest(name, preset, load):
    model = load(name, preset)
    cached = model.generate(token_ids(), **GREEDY)
    whole = outputs(model, cached)[:, 15:-1]
    chosen = whole.gather(-1, cached[:, 16:, None]).squeeze(-1)
    # Where rounding decides between two tokens, both are as good as likeliest.
    assert (whole.max(-1).values - chosen).max() < 0.05 * whole.std()


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_a_static_cache_generates_what_a_growing_one_does(name, preset, load):
    model, ids = load(name, preset), token_ids()
    growing = model.generate(ids, **GREEDY)
    static = model.generate(ids, cache_implementation="static", disable_compile=True, **GREEDY)
    assert torch.equal(static, growing)


def test_padding_on_the_left_does_not_change_what_a_row_generates(name, load, monkeypatch):
    monkeypatch.setenv("HF_QUANT_KERNEL", "aten_dequantize")
    model, ids = load(name, "int8"), token_ids(rows=1)
    alone = model.generate(ids, **GREEDY)
    padded = torch.cat([torch.ones(1, 5, dtype=torch.int64), ids], 1)
    mask = (torch.arange(21)[None] >= 5).long()
    assert torch.equal(model.generate(padded, attention_mask=mask, **GREEDY)[:, 21:], alone[:, 16:])


def test_sampling_and_beams_run(name, load):
    model = load(name, "int4")
    torch.manual_seed(0)
    assert model.generate(token_ids(), max_new_tokens=4, do_sample=True).shape[0] == 2
    assert model.generate(token_ids(), max_new_tokens=4, num_beams=3).shape[0] == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_generating_in_half_precision(name, dtype, load):
    generated = load(name, "int8", dtype=dtype).generate(token_ids(), **GREEDY)
    assert generated.shape == (2, 28)
    assert ((generated >= 0) & (generated < 128)).all()


@pytest.fixture(scope="module")
def tokenizer():
    """One token per word; the words are w0 to w123 after four special ones."""
    words = ["[UNK]", "[PAD]", "[MASK]", "[SEP]", *(f"w{i}" for i in range(124))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_text_generation_pipeline(name, preset, load, tokenizer, tmp_path):
    model = load(name, preset)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    arguments = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    [here] = pipeline("text-generation", model=model, tokenizer=tokenizer)("w1 w2 w3", **arguments)
    [saved] = pipeline("text-generation", model=str(tmp_path))("w1 w2 w3", **arguments)
    assert here == saved
    assert here["generated_text"].startswith("w1 w2 w3w")


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_fill_mask_pipeline_ranks_as_the_logits_do(preset, load, tokenizer):
    model = load("bert", preset)
    found = pipeline("fill-mask", model=model, tokenizer=tokenizer)("w1 w2 [MASK] w4")
    ids = torch.tensor([tokenizer("w1 w2 [MASK] w4")["input_ids"]])
    assert found[0]["token"] == int(outputs(model, ids)[0, 2].argmax())


def test_text_classification_pipeline(tokenizer, tmp_path):
    tiny_model("bert", BertForSequenceClassification, num_labels=3).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, quantization_config=HfQuantConfig("int8"))
    found = pipeline("text-classification", model=model.eval(), tokenizer=tokenizer, top_k=None)(["w1 w2", "w3 w4 w5"])
    assert [len(scores) for scores in found] == [3, 3]
    ids = torch.tensor([tokenizer("w1 w2")["input_ids"]])
    assert found[0][0]["label"] == model.config.id2label[int(outputs(model, ids).argmax())]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_feature_extraction_pipeline(family, load, tokenizer):
    model = load(family, "int8", AutoModel)
    found = pipeline("feature-extraction", model=model, tokenizer=tokenizer)("w1 w2 w3", return_tensors=True)
    ids = torch.tensor([tokenizer("w1 w2 w3")["input_ids"]])
    assert torch.allclose(found, outputs(model, ids), atol=1e-6)


def test_a_pipeline_takes_the_config_itself(checkpoints, tokenizer, load):
    options = {"quantization_config": HfQuantConfig("int8"), "dtype": torch.float32}
    made = pipeline("text-generation", model=str(checkpoints["llama"]), tokenizer=tokenizer, model_kwargs=options)
    assert isinstance(made.model, type(AutoModelForCausalLM.from_config(made.model.config)))
    assert torch.equal(outputs(made.model), outputs(load("llama", "int8")))
