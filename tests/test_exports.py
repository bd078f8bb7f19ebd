"""What the package offers: its public names, documented, and registered once however often it is imported."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import hf_quant

PACKAGE = Path(hf_quant.__file__).parent


def public_definitions():
    """Every public module, class, function and method of the package, as (name, ast node)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        where = str(path.relative_to(PACKAGE))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        yield where, tree
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                yield f"{where}:{node.name}", node
                for member in node.body if isinstance(node, ast.ClassDef) else []:
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and member.name[0] != "_":
                        yield f"{where}:{node.name}.{member.name}", member


def test_all_is_exactly_the_public_names():
    public = {name for name, value in vars(hf_quant).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert set(hf_quant.__all__) == public | {"__version__"}
    assert len(hf_quant.__all__) == len(set(hf_quant.__all__))


@pytest.mark.parametrize("name", [name for name in hf_quant.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(hf_quant, name))


def test_everything_public_has_a_docstring():
    assert [name for name, node in public_definitions() if not ast.get_docstring(node)] == []


def test_importing_registers_config_and_quantizer():
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["hf_quant"] is hf_quant.HfQuantConfig
    assert AUTO_QUANTIZER_MAPPING["hf_quant"].__name__ == "HfQuantQuantizer"


def test_importing_again_and_reloading_register_without_raising():
    assert importlib.import_module("hf_quant") is hf_quant
    before = AUTO_QUANTIZER_MAPPING["hf_quant"]
    assert importlib.reload(hf_quant) is hf_quant
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["hf_quant"] is hf_quant.HfQuantConfig
    assert AUTO_QUANTIZER_MAPPING["hf_quant"] is before


def test_version_is_the_one_that_is_built():
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{hf_quant.__version__}"' in text
