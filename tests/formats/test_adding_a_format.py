"""The document about adding a format: what it says, and nothing else, adds one that goes all the way."""

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hf_quant
from hf_quant import HfQuantConfig, Plan, Scheme, TensorScheme
from hf_quant.calibration.pairs import weight_matrix
from hf_quant.config.formats import FORMATS, FormatFacts
from hf_quant.formats import format_of
from hf_quant.modules.swap import quantized_modules
from tests.integration.tiny import auto_class, error, outputs, tiny_model

DOCUMENT = (Path(__file__).parents[2] / "docs" / "adding_a_format.md").read_text()
FILE, ROW = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def added(monkeypatch):
    """The file of the document as a module, and its row in the table."""
    key, value = ROW.strip().removesuffix(",").split(": ", 1)
    facts = eval(value, {"FormatFacts": FormatFacts})
    name = facts.path.split(":")[0]
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(FILE, module.__dict__)
    monkeypatch.setitem(FORMATS, ast.literal_eval(key), facts)
    return ast.literal_eval(key)


def test_the_levels_are_powers_of_two(added):
    levels = format_of(TensorScheme(added, 4)).levels
    assert len(levels) == 15 and all(
        level == 0 or abs(level) == 2.0 ** round(torch.tensor(abs(level)).log2().item()) for level in levels
    )


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("group_size", [None, 32])
def test_it_is_loaded_run_saved_reloaded_dequantized_and_inspected(added, name, group_size, tmp_path):
    scheme = TensorScheme(added, 4, granularity="group" if group_size else "channel", group_size=group_size)
    config = HfQuantConfig(plan=Plan({"*": Scheme(scheme)}))
    tiny_model(name).save_pretrained(tmp_path / "float")
    model = auto_class(name).from_pretrained(tmp_path / "float", quantization_config=config).eval()
    found = outputs(model)
    model.save_pretrained(tmp_path / "own")
    again = auto_class(name).from_pretrained(tmp_path / "own").eval()
    assert torch.equal(outputs(again), found)
    rows = {row.scheme for row in hf_quant.inspect(again).rows if row.kernel == "aten_dequantize"}
    assert rows == {"POW2 g32" if group_size else "POW2"}
    original = tiny_model(name)
    for full, module in quantized_modules(again):
        real = (
            weight_matrix(original.get_submodule(full))
            .detach()
            .unflatten(-1, (-1, group_size or module.spec.in_features))
        )
        near = module.dequantized_weight().view(real.shape)
        shares = near.abs() / near.abs().amax(-1, keepdim=True)
        assert bool(((shares == 0) | (shares == 2.0 ** shares.log2().round())).all())
        # The middle of two powers is a third away from both; the least of them is a 64th of the scale.
        assert bool(((near - real).abs() <= real.abs() / 3 + near.abs().amax(-1, keepdim=True) / 127).all())
    assert error(outputs(again.dequantize()), found) < 1e-5
