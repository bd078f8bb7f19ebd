"""The model card: valid metadata, how to load, what was quantized; nothing of its owner's is lost or repeated."""

import re
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_quant import HfQuantConfig, Scheme, TensorScheme, quantize
from hf_quant.errors import SaveError
from hf_quant.hub.card import extend_card, quantization_section

BERT = BertConfig(vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
GPT2 = GPT2Config(vocab_size=50, n_embd=64, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
LLAMA = LlamaConfig(vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)

MODELS = {
    "AutoModelForMaskedLM": (BertForMaskedLM, BERT),
    "AutoModelForSequenceClassification": (BertForSequenceClassification, BERT),
    "AutoModel": (BertModel, BERT),
    "AutoModelForCausalLM": (LlamaForCausalLM, LLAMA),
}


def quantized(model_class=LlamaForCausalLM, config=LLAMA, how="int4"):
    torch.manual_seed(0)
    return quantize(model_class(config), how, progress=False)


@pytest.fixture(scope="module")
def model():
    return quantized()


def write(model, directory, text=None, source="owner/model"):
    """The card that `extend_card` makes of `text`."""
    readme = directory / "README.md"
    if text is not None:
        readme.write_text(text, encoding="utf-8")
    extend_card(model, directory, existing=readme, source=source)
    return ModelCard.load(readme)


def test_a_new_card_has_valid_metadata_a_title_and_one_section(model, tmp_path):
    card = write(model, tmp_path)
    assert card.data.library_name == "transformers"
    assert {"hf_quant", "quantized"} <= set(card.data.tags)
    assert re.match(r"\s*# \S+", card.text)
    assert card.text.count("## Quantization") == 1


@pytest.mark.parametrize("auto_class", MODELS)
def test_the_example_imports_the_plugin_first_and_loads_with_the_right_class(auto_class):
    section = quantization_section(quantized(*MODELS[auto_class]), "owner/model")
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    assert block.index("import hf_quant") < block.index("from transformers")
    assert f'{auto_class}.from_pretrained("owner/model")' in block
    compile(block, "card", "exec")


def test_gpt2s_class_name_gives_the_auto_class_for_causal_language_models():
    assert "AutoModelForCausalLM" in quantization_section(quantized(GPT2LMHeadModel, GPT2), "x")


def test_the_table_counts_every_quantized_module(model):
    rows = re.findall(r"^\| (W\S.*?) \| (\d+) \|$", quantization_section(model, "x"), re.MULTILINE)
    plan = model.config.quantization_config.plan
    assert sum(int(count) for _, count in rows) == len(plan.modules)
    assert {scheme for scheme, _ in rows} == {str(scheme) for scheme in plan.modules.values()}


def test_what_stayed_float_is_listed_with_its_reason():
    section = quantization_section(quantized(how=HfQuantConfig("int8", modules_to_not_convert=["lm_head"])), "x")
    assert "Left in float:" in section
    assert "- 1 module: listed in modules_to_not_convert" in section


def test_a_scheme_without_a_preset_is_described_without_one():
    section = quantization_section(quantized(how=HfQuantConfig(scheme=Scheme(TensorScheme(bits=3)))), "x")
    assert "preset" not in section
    assert "| W3A16 |" in section


OWNED = """---
license: mit
language:
- en
tags:
- finance
- quantized
datasets:
- owner/data
custom_key: kept
---

# My model

Words of its owner: 50 % \\d \\1 {{ braces }} — dashes.

## Results

| a | b |
|---|---|
| 1 | 2 |
"""


def test_text_and_metadata_of_the_owner_are_kept(model, tmp_path):
    card = write(model, tmp_path, OWNED)
    assert card.data.license == "mit" and card.data.language == ["en"] and card.data.datasets == ["owner/data"]
    assert card.data.to_dict()["custom_key"] == "kept"
    assert card.data.tags == ["finance", "quantized", "hf_quant"]
    without_ours = re.sub(r"<!-- hf_quant: begin -->.*<!-- hf_quant: end -->", "", card.text, flags=re.DOTALL)
    assert without_ours.split() == OWNED.split("---\n", 2)[2].split()


def test_writing_again_changes_nothing(model, tmp_path):
    first = write(model, tmp_path, OWNED).content
    assert write(model, tmp_path).content == first


def test_the_section_is_replaced_where_it_stands(model, tmp_path):
    write(model, tmp_path, OWNED)
    moved = (tmp_path / "README.md").read_text().replace("## Results", "## Outcome")
    card = write(quantized(how="int8"), tmp_path, moved)
    assert card.text.count("hf_quant: begin") == card.text.count("hf_quant: end") == 1
    assert 'preset "int8"' in card.text and "int4" not in card.text
    assert "## Outcome" in card.text


def test_a_card_without_metadata_gets_some(model, tmp_path):
    card = write(model, tmp_path, "# Mine\n\nNo metadata here.\n")
    assert "hf_quant" in card.data.tags and "No metadata here." in card.text


@pytest.mark.parametrize("text", ["", "\n", "no title", "---\n---\n", "```bash\n# install\nmake\n```\n"])
def test_odd_cards_are_extended_and_stay_whole(model, tmp_path, text):
    card = write(model, tmp_path, text)
    assert card.text.count("## Quantization") == 1
    body = text.replace("---\n", "")
    assert body.strip() in card.text


def test_windows_line_ends_are_kept(model, tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\r\nlicense: mit\r\n---\r\n# Mine\r\n\r\nText.\r\n")
    extend_card(model, tmp_path, existing=tmp_path / "README.md", source="x")
    assert ModelCard.load(tmp_path / "README.md").data.license == "mit"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"---\na: [1\n---\n# Mine\n", b"---\n- a\n- b\n---\n# Mine\n"])
def test_a_card_that_cannot_be_parsed_is_an_error_that_names_it_and_stays(model, tmp_path, content):
    readme = tmp_path / "README.md"
    readme.write_bytes(content)
    with pytest.raises(SaveError, match=r"(?s)README\.md is not a model card .* move the file away"):
        extend_card(model, tmp_path, existing=readme, source="x")
    assert readme.read_bytes() == content


def test_metadata_that_the_hub_would_refuse_does_not_stop_a_save(model, tmp_path):
    card = write(model, tmp_path, "---\nlicense: mit\nmodel-index: nonsense\n---\n# Mine\n")
    assert card.data.license == "mit"


@pytest.mark.parametrize(
    ("name", "pre_quantized", "expected"),
    [
        ("owner/base", False, "owner/base"),
        ("owner/base", True, None),
        ("/home/me/base", False, None),
        ("", False, None),
    ],
)
def test_the_base_model_is_named_when_it_is_a_repository_quantized_here(tmp_path, name, pre_quantized, expected):
    model = quantized()
    model.config._name_or_path = name
    model.hf_quantizer = SimpleNamespace(pre_quantized=pre_quantized)
    card = write(model, tmp_path)
    assert card.data.base_model == expected


def test_a_base_model_that_the_owner_names_is_kept(tmp_path):
    model = quantized()
    model.config._name_or_path = "owner/base"
    assert write(model, tmp_path, "---\nbase_model: owner/other\n---\n# Mine\n").data.base_model == "owner/other"


def test_no_local_path_reaches_the_card(tmp_path):
    model = quantized()
    model.config._name_or_path = "/home/me/secret/base"
    assert "/home/me" not in write(model, tmp_path).content


def test_layers_with_schemes_of_their_own_are_told_by_their_numbers():
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2
    )
    how = HfQuantConfig("int8", overrides={"*.layers.{0-1,3}.mlp.down_proj": "w8a16", "*.layers.0.*.q_proj": None})
    section = quantization_section(quantized(config=config, how=how), "x")
    assert "W8A16 rot64 `model.layers.{0-1,3}.mlp.down_proj`; W8A8 rot64 `model.layers.2.mlp.down_proj`" in section
    assert "float `model.layers.0.self_attn.q_proj`; W8A8 rot64 `model.layers.{1-3}.self_attn.q_proj`" in section
    assert "up_proj" not in section


def test_a_plan_that_treats_all_layers_alike_names_none(model):
    assert "differ" not in quantization_section(model, "x")
