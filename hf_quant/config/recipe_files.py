"""Recipes that come with the package, by their names."""

from __future__ import annotations

from pathlib import Path

from hf_quant.errors import ConfigError
from hf_quant.registry import unknown

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
"""Folders of recipes: of an installed package, and of a checkout."""


def recipe_names(training: bool = False) -> list[str]:
    """Names of the recipes that come with the package, sorted.

    Args:
        training: Whether to list recipes of quantization-aware training, which begin with ``qat_``, or the others.
    """
    return sorted(name for name in _files() if name.startswith("qat_") == training)


def recipe_file(recipe: str | Path, training: bool = False) -> Path:
    """The file of a recipe: `recipe` itself if there is such a file, or else the one that comes with that name.

    A folder is no recipe: what is made by ``bert-int8`` is often called so, too.

    Args:
        recipe: A path, or a name of `recipe_names`.
        training: Whether the error names training recipes or others, where `recipe` is neither.

    Raises:
        ConfigError: There is no such file and no such recipe; the nearest name is told.
    """
    path, shipped = Path(recipe), _files()
    try:
        if path.exists() and not (path.is_dir() and str(recipe) in shipped):
            return path
    except OSError as error:
        raise ConfigError(f"{recipe} cannot be read as a recipe: {error}") from error
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    raise ConfigError(
        f"{recipe} cannot be read as a recipe: there is no such file, and "
        + unknown("recipe that comes with hf_quant", recipe, recipe_names(training))
    )


def _files() -> dict[str, Path]:
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in folder.glob("*.yaml")}
