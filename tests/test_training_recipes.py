"""Every training recipe trains, and leaves a checkpoint that reloads."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import hf_quant
from hf_quant import TrainingRecipe
from hf_quant.qat.prepare import fake_quantized_modules
from tests.evaluation.tiny import task_model, task_rows, tiny_tokenizer
from tests.integration.tiny import token_ids

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("qat_*.yaml"))
by_name = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def shortened(path):
    """The recipe, in six steps: its schedule as early as it is late."""
    recipe = TrainingRecipe.from_file(path)
    whole = recipe.training.get("max_steps", 3000)
    qat = dict(recipe.qat)
    for name in ("freeze_scales_at", "observer_steps"):
        if name in qat:
            qat[name] = max(1, 6 * qat[name] // whole)
    if "bits" in qat:
        qat["bits"] = {index: bits for index, bits in enumerate(qat["bits"].values())}
    training = {**recipe.training, "max_steps": 6, "per_device_train_batch_size": 4, "warmup_steps": 1}
    return replace(recipe, qat=qat, training=training, max_length=min(recipe.max_length, 64))


@by_name
def test_a_training_recipe_runs_and_what_it_made_reloads(path, tmp_path):
    task = "text-classification" if "bert" in path.stem else "causal-lm"
    task_model(task).save_pretrained(tmp_path / "float")
    tiny_tokenizer().save_pretrained(tmp_path / "float")
    result = hf_quant.train(
        str(tmp_path / "float"), shortened(path), task, task_rows(task), tmp_path / "out", holdout=0.25, progress=False
    )
    assert result.run.steps == 6
    auto = AutoModelForSequenceClassification if task == "text-classification" else AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path / "out")
    assert loaded.is_quantized and not list(fake_quantized_modules(loaded))
    with torch.inference_mode():
        assert bool(loaded.eval()(token_ids(rows=2)).logits.isfinite().all())


@by_name
def test_a_training_recipe_says_when_to_choose_it(path):
    comment = " ".join(re.findall(r"^# (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert comment.startswith("For ") and len(comment) > 100
