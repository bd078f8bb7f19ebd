"""Recipes that come with the package are found by their names, wherever they lie."""

from pathlib import Path

import pytest

from hf_quant.config import recipe_files
from hf_quant.config.recipe import Recipe
from hf_quant.config.recipe_files import recipe_file, recipe_names
from hf_quant.config.training_recipe import TrainingRecipe
from hf_quant.errors import ConfigError

SHIPPED = sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_every_recipe_has_a_name_and_is_either_of_training_or_not():
    assert sorted(recipe_names() + recipe_names(training=True)) == SHIPPED
    for name in recipe_names():
        assert Recipe.from_file(name) == Recipe.from_file(Path("recipes") / f"{name}.yaml")
    for name in recipe_names(training=True):
        assert TrainingRecipe.from_file(name) == TrainingRecipe.from_file(f"recipes/{name}.yaml")


def test_a_file_goes_before_a_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_file("llama-int4-best").name == "llama-int4-best.yaml"
    Path("llama-int4-best").write_text("preset: int8")
    assert recipe_file("llama-int4-best") == Path("llama-int4-best")
    assert Recipe.from_file("llama-int4-best").preset == "int8"


def test_a_path_into_the_project_leads_there_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_file("recipes/gpt2-int8.yaml").is_file()


@pytest.mark.parametrize("wrong", ["llama-int4-bset", "recipes/llama-int4-bset.yaml", "elsewhere/llama-int4-best.yaml"])
def test_a_wrong_name_is_told_with_the_nearest(wrong):
    with pytest.raises(ConfigError, match=r"no such file, and .* did you mean 'llama-int4-best'\?"):
        recipe_file(wrong)


def test_a_package_without_its_recipes_still_reads_files(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_files, "_FOLDERS", (tmp_path / "none",))
    file = tmp_path / "own.yaml"
    file.write_text("preset: int4")
    assert recipe_names() == [] and Recipe.from_file(file).preset == "int4"
    with pytest.raises(ConfigError, match="no such file"):
        recipe_file("llama-int4-best")
