"""Recipes that come with the package are found by their names, wherever they lie."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hf_quant.config import recipe_files
from hf_quant.config.recipe import Recipe
from hf_quant.config.recipe_files import recipe_file, recipe_names
from hf_quant.config.training_recipe import TrainingRecipe
from hf_quant.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def test_every_recipe_has_a_name_and_is_either_of_training_or_not():
    assert sorted(recipe_names() + recipe_names(training=True)) == SHIPPED
    for name in recipe_names():
        assert Recipe.from_file(name) == Recipe.from_file(FOLDER / f"{name}.yaml")
    for name in recipe_names(training=True):
        assert TrainingRecipe.from_file(name) == TrainingRecipe.from_file(str(FOLDER / f"{name}.yaml"))


def test_a_file_goes_before_a_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_file("llama-int4-best").name == "llama-int4-best.yaml"
    Path("llama-int4-best").write_text("preset: int8")
    assert recipe_file("llama-int4-best") == Path("llama-int4-best")
    assert Recipe.from_file("llama-int4-best").preset == "int8"


def test_a_folder_that_was_made_by_a_recipe_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bert-int8").mkdir()
    assert Recipe.from_file("bert-int8").preset == "int8"
    with pytest.raises(ConfigError, match="cannot be read as a recipe"):
        Recipe.from_file(tmp_path)


def test_a_name_that_no_file_can_have_is_told_in_words():
    with pytest.raises(ConfigError, match="cannot be read as a recipe"):
        recipe_file("llama" * 100)


@pytest.mark.slow
def test_an_installed_package_has_its_recipes(tmp_path):
    """Without the native library, which changes nothing about them and takes minutes."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pip", "wheel", str(root), "--no-deps", "-C", "wheel.cmake=false", "-w", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(Path(name).stem for name in names if name.startswith("hf_quant/recipes/")) == SHIPPED


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
