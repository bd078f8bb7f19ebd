import pytest

from hf_quant import TrainingRecipe
from hf_quant.errors import ConfigError

WHOLE = {
    "preset": "int4",
    "overrides": {"*.down_proj": "int8"},
    "qat": {"weights": "lsq", "bits": {0: 8, 10: 4}},
    "distillation": {"teacher": "self", "temperature": 2.0},
    "training": {"learning_rate": 1e-4, "max_steps": 20, "bf16": False},
    "max_length": 64,
}


def test_a_recipe_is_written_as_it_was_read():
    recipe = TrainingRecipe.from_dict(WHOLE)
    assert TrainingRecipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.to_dict() == WHOLE


def test_a_file_is_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("preset: int8\ntraining:\n  learning_rate: 2.0e-5\n")
    assert TrainingRecipe.from_file(path).training == {"learning_rate": 2e-5}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trainings": {}}, "training"),
        ({"qat": {"bit": {0: 4}}}, "bits"),
        ({"distillation": {"temprature": 1}}, "temperature"),
        ({"training": {"learning_rat": 1e-4}}, "learning_rate"),
        ({"training": {"output_dir": "x"}}, "output_dir"),
        ({"training": {"learning_rate": "1e-4"}}, r"write 2\.0e-5"),
        ({"training": {"learning_rate": -1.0}}, "negative"),
        ({"training": {"per_device_train_batch_size": 0}}, "at least 1"),
        ({"training": {"gradient_accumulation_steps": 0}}, "at least 1"),
        ({"training": {"max_steps": True}}, "wrong type"),
        ({"training": {"bf16": 1}}, "wrong type"),
        ({"training": [1]}, "keys and values"),
        ({"preset": "int5"}, "int4"),
        ({"scheme": {"weight": {"bits": 4}}}, "exactly one of preset, scheme and plan"),
        ({"max_length": 0}, "max_length"),
        ({"distillation": {"teacher": 3}}, "teacher"),
        ({"solver": "gptq"}, "training recipe key"),
    ],
)
def test_what_is_wrong_is_named(changes, says):
    with pytest.raises(ConfigError, match=says):
        TrainingRecipe.from_dict({**WHOLE, **changes})


def test_a_recipe_says_what_to_quantize_to():
    with pytest.raises(ConfigError, match="preset: int8"):
        TrainingRecipe.from_dict({"training": {"max_steps": 3}})


@pytest.mark.parametrize("text", ["preset: [", "- preset", "preset: !!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_recipe_is_named(text, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        TrainingRecipe.from_file(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        TrainingRecipe.from_file(tmp_path / "none.yaml")
