"""Models whose code comes with the checkpoint, and reads or writes weights of its modules in place."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import QuantizedWeightError
from hf_quant.modules.base import QuantizedModule
from tests.integration.tiny import error

CODE = """
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

class RemoteConfig(PreTrainedConfig):
    model_type = "remote"
    way = "calls"

class RemoteModel(PreTrainedModel):
    config_class = RemoteConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.linear = nn.Linear(64, 96)
        self.out = nn.Linear(96, 64, bias=False)
        self.post_init()

    def forward(self, inputs):
        weight, way = self.linear.weight, self.config.way
        if way == "clamps":
            weight.data.clamp_(-0.01, 0.01)
        elif way == "centres":
            weight.data -= weight.data.mean()
        elif way == "assigns":
            weight.data = weight.data / weight.data.norm()
        elif way == "a row":
            weight.data[3] = 0.0
        elif way == "copies":
            with torch.no_grad():
                weight.copy_(torch.zeros_like(weight))
        if way == "linear":
            hidden = nn.functional.linear(inputs, weight.data, self.linear.bias)
        elif way == "columns":
            hidden = (weight.data @ inputs.T).T + self.linear.bias
        elif way == "part":
            hidden = torch.cat([inputs @ weight.data[:48].T, inputs @ weight.data[48:].T], -1) + self.linear.bias
        elif way == "normalises":
            hidden = inputs @ nn.functional.normalize(weight.data, dim=-1).T + self.linear.bias
        elif way == "detaches":
            hidden = inputs @ weight.detach().clone().t() + self.linear.bias
        else:
            hidden = self.linear(inputs)
        return self.out(hidden.tanh())
"""
READS = ("linear", "columns", "part", "normalises", "detaches")
WRITES = ("clamps", "centres", "assigns", "a row", "copies")
INPUTS = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A float checkpoint with its code."""
    path = tmp_path_factory.mktemp("remote")
    (path / "remote.py").write_text(CODE)
    places = {"AutoConfig": "remote.RemoteConfig", "AutoModel": "remote.RemoteModel"}
    (path / "config.json").write_text(json.dumps({"model_type": "remote", "auto_map": places}))
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.from_pretrained(path, trust_remote_code=True), trust_remote_code=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path)
    assert (path / "remote.py").exists()
    return path


def load(path, way, **options):
    return AutoModel.from_pretrained(path, trust_remote_code=True, way=way, **options).eval()


@pytest.mark.parametrize("preset", ["int8", "w4a16"])
@pytest.mark.parametrize("way", READS)
@torch.no_grad()
def test_reads_see_the_numbers_that_the_codes_stand_for(way, preset, folder, tmp_path):
    model = load(folder, way, quantization_config=HfQuantConfig(preset))
    assert isinstance(model.linear, QuantizedModule)
    found = model(INPUTS)
    assert hf_quant.check(model, {"inputs": INPUTS}).is_right
    # Inputs are rounded where the kernel multiplies.
    assert error(found, load(folder, way, quantization_config=HfQuantConfig(preset)).dequantize()(INPUTS)) < (
        0.03 if preset == "int8" else 1e-4
    )
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, way)(INPUTS), found)


@pytest.mark.parametrize("way", WRITES)
@torch.no_grad()
def test_writes_are_refused_and_change_nothing(way, folder):
    model = load(folder, way, quantization_config=HfQuantConfig("int8"))
    before = model.linear.dequantized_weight()
    with pytest.raises(QuantizedWeightError, match="modules_to_not_convert"):
        model(INPUTS)
    assert torch.equal(model.linear.dequantized_weight(), before)


@pytest.mark.parametrize("way", WRITES)
@torch.no_grad()
def test_the_way_out_that_the_refusal_names_works(way, folder):
    config = HfQuantConfig("int8", modules_to_not_convert=["linear"])
    model = load(folder, way, quantization_config=config)
    assert isinstance(model.out, QuantizedModule)
    assert error(model(INPUTS), load(folder, way)(INPUTS)) < 0.03
