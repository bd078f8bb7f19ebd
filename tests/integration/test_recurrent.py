"""Models with an LSTM or a GRU: quantized on the fly and in memory, saved, reloaded and turned back."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from transformers import PreTrainedConfig, PreTrainedModel

import hf_quant
from hf_quant import Calibration, HfQuantConfig, Recipe
from hf_quant.errors import PlanError, WeightError
from hf_quant.fusion.recurrent import FusedRecurrent
from hf_quant.kernels.native import library
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.recurrent import OpenedRecurrent
from hf_quant.training.opened_parameters import take_parts
from hf_quant.workflows.qat import convert, prepare
from tests.integration.tiny import error

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # of PEFT's own
]
KINDS = ("lstm", "gru")
PRESETS = ("int8", "w8a16", "w4a16")
ROUNDING = 1e-2 if library.load() is None else 1e-3
"""Torch's own kernels decode to bfloat16."""


class RecurrentConfig(PreTrainedConfig):
    model_type = "tiny-recurrent"

    def __init__(self, kind="lstm", options=None, vocab_size=40, width=64, hidden_size=64, labels=5, **kwargs):
        self.kind, self.options, self.vocab_size, self.width = kind, options or {}, vocab_size, width
        self.hidden_size, self.labels = hidden_size, labels
        super().__init__(**kwargs)


class RecurrentModel(PreTrainedModel):
    config_class = RecurrentConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        kind = nn.LSTM if config.kind == "lstm" else nn.GRU
        self.rnn = kind(config.width, config.hidden_size, batch_first=True, **config.options)
        width = config.options.get("proj_size") or config.hidden_size
        self.head = nn.Linear(width * (1 + config.options.get("bidirectional", False)), config.labels)
        self.post_init()

    def forward(self, input_ids, lengths=None):
        states = self.embed(input_ids)
        if lengths is not None:
            states = pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.rnn(states)[0].data)
        return self.head(self.rnn(states)[0])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.rnn = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(width, width)

    def forward(self, states):
        return states + self.linear(self.rnn(states)[0])


class Blocks(PreTrainedModel):
    config_class = RecurrentConfig
    base_model_prefix = "model"

    def __init__(self, config):
        torch.manual_seed(0)
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList([Block(config.width) for _ in range(2)])
        self.head = nn.Linear(config.width, config.labels)
        self.post_init()
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, std=0.1 if "bias" in name else 0.15)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None, **_):
        states = self.embed(input_ids)
        for layer in self.layers:
            states = layer(states)
        return self.head(states)


def tiny(kind="lstm", **options):
    torch.manual_seed(0)
    model = RecurrentModel(RecurrentConfig(kind, {"num_layers": 2, "bidirectional": True, **options})).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.1 if "bias" in name else 0.15)
    return model


IDS = torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def outputs(model, lengths=None):
    return model(IDS) if lengths is None else model(IDS, lengths)


def saved(model, directory):
    model.save_pretrained(directory)
    return directory


def load(directory, config=None, **kwargs):
    given = {} if config is None else {"quantization_config": config}
    return RecurrentModel.from_pretrained(directory, **given, **kwargs)


@pytest.mark.parametrize("options", [{}, {"bias": False, "num_layers": 1}, {"proj_size": 32}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_a_quantized_model_gives_the_same_one(kind, options, tmp_path):
    if kind == "gru" and "proj_size" in options:
        options = {"bidirectional": False}
    model = tiny(kind, **options)
    original = saved(model, tmp_path / "float")
    for preset in PRESETS:
        loaded = load(original, HfQuantConfig(preset))
        expected, packed = outputs(loaded), outputs(loaded, [4, 7, 1])
        assert isinstance(loaded.rnn, OpenedRecurrent)
        assert all(isinstance(child, QuantizedModule) for child in loaded.rnn.children())
        assert not [name for name, _ in loaded.named_parameters() if name.startswith("rnn.weight")]
        in_memory = hf_quant.quantize(copy.deepcopy(model), preset, progress=False)
        assert torch.equal(outputs(in_memory), expected)
        for other in (
            load(saved(loaded, tmp_path / preset)),
            copy.deepcopy(loaded),
            pickle.loads(pickle.dumps(loaded)),
        ):
            assert torch.equal(outputs(other), expected) and torch.equal(outputs(other, [4, 7, 1]), packed)
        assert error(expected, outputs(model)) < (0.3 if preset == "w4a16" else 0.05)
        restored = load(tmp_path / preset).dequantize()
        assert type(restored.rnn) is type(model.rnn)
        assert restored.state_dict().keys() == model.state_dict().keys()
        if preset != "int8":
            assert error(expected, outputs(restored)) < ROUNDING
            assert error(packed, outputs(restored, [4, 7, 1])) < ROUNDING
        assert torch.equal(outputs(load(saved(restored, tmp_path / "restored"))), outputs(restored))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_loads_saves_and_reloads(kind, dtype, tmp_path):
    model = tiny(kind)
    loaded = load(saved(copy.deepcopy(model).to(dtype), tmp_path / "float"), HfQuantConfig("int8"), dtype=dtype)
    expected = outputs(loaded)
    assert expected.dtype == dtype and error(expected, outputs(model)) < 0.05
    assert torch.equal(outputs(load(saved(loaded, tmp_path / "int8"))), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_is_loaded_into_a_quantized_model(kind):
    other = tiny(kind)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.2)
    first, second = (hf_quant.quantize(model, "w8a16", progress=False) for model in (tiny(kind), other))
    state = first.state_dict()
    assert "rnn.hh_l0.weight" in state and "rnn.bias_hh_l0" not in state
    second.load_state_dict(state)
    assert torch.equal(outputs(second), outputs(first))
    with pytest.raises(RuntimeError, match=r"rnn\.hh_l0\.weight is quantized and stands for other numbers"):
        second.load_state_dict(tiny(kind).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_plans_name_linears_and_what_is_float_keeps_its_names(kind, tmp_path):
    model = tiny(kind)
    original = saved(model, tmp_path / "float")
    floats = load(original, HfQuantConfig("int8", modules_to_not_convert=["rnn"]))
    assert type(floats.rnn) is type(model.rnn)
    assert floats.rnn.state_dict().keys() == model.rnn.state_dict().keys()
    config = HfQuantConfig("w8a16", overrides={"rnn.hh_*": None})
    partly = load(original, config)
    assert type(partly.rnn.hh_l0) is nn.Linear and isinstance(partly.rnn.ih_l1_reverse, QuantizedModule)
    assert torch.equal(partly.rnn.hh_l0.weight, model.rnn.weight_hh_l0)
    expected = outputs(partly)
    assert torch.equal(outputs(load(saved(partly, tmp_path / "partly"))), expected)
    assert torch.equal(outputs(hf_quant.quantize(model, config, progress=False)), expected)


def test_what_is_inspected_and_refused_names_linears(tmp_path):
    model = hf_quant.quantize(tiny(), "int8", progress=False)
    assert "rnn.hh_l1_reverse" in str(hf_quant.inspect(model))
    with pytest.raises(PlanError):
        hf_quant.quantize(tiny(), HfQuantConfig("int8", overrides={"rnn.weight_hh_l0": None}), progress=False)
    broken = tiny()
    with torch.no_grad():
        broken.rnn.weight_hh_l0[0, 0] = torch.nan
    with pytest.raises(WeightError, match=r"rnn\.hh_l0\.weight"):
        load(saved(broken, tmp_path), HfQuantConfig("int8"))


@pytest.mark.skipif(library.load() is None, reason="installed without a compiler")
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_native_recurrences_are_taken_and_compute_what_the_linears_do(kind, preset):
    model = hf_quant.quantize(tiny(kind, **({"proj_size": 32} if kind == "lstm" else {})), preset, progress=False)
    assert isinstance(model.rnn, FusedRecurrent)
    called = []
    hook = model.rnn.hh_l0.register_forward_hook(lambda *_: called.append(1))
    slow = outputs(model)
    hook.remove()
    assert len(called) == IDS.shape[1]
    fast = outputs(model)
    assert len(called) == IDS.shape[1]
    assert error(fast, slow) < (1e-2 if preset == "int8" else 1e-5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_batch_without_a_sequence_gives_none(kind, preset):
    source = tiny(kind)
    model = hf_quant.quantize(copy.deepcopy(source), preset, progress=False)
    width = source.rnn.input_size
    empty = torch.randn((0, 5, width) if source.rnn.batch_first else (5, 0, width))
    packed = PackedSequence(torch.randn(2, width), torch.tensor([2, 0]))
    for input in (empty, packed):
        (found, states), (expected, wanted) = model.rnn(input), source.rnn(input)
        assert getattr(found, "data", found).shape == getattr(expected, "data", expected).shape
        pairs = [(states, wanted)] if kind == "gru" else zip(states, wanted, strict=True)
        assert all(one.shape == other.shape for one, other in pairs)


def test_inputs_train_through_a_quantized_model():
    model = hf_quant.quantize(tiny(), "w8a16", progress=False)
    states = torch.randn(2, 5, 64, requires_grad=True)
    model.rnn(states)[0].sum().backward()
    found = states.grad.clone()
    states.grad = None
    model.dequantize().rnn(states)[0].sum().backward()
    assert error(found, states.grad) < ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_training_rounds_as_the_quantized_model_will(kind):
    model = tiny(kind).train()
    before = model.rnn.weight_hh_l0
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    optimizer_before = [*optimizer.param_groups[0]["params"]]
    prepare(model, "int8")
    assert model.rnn.weight_hh_l0 is before
    for _ in range(2):
        model(IDS).square().mean().backward()
        assert before.grad.abs().sum() > 0
        optimizer.step()
        optimizer.zero_grad()
    take_parts(optimizer, dict(tiny(kind).named_parameters()) | {"rnn.weight_hh_l0": before}, model)
    assert optimizer.param_groups[0]["params"] == optimizer_before
    rounded = outputs(model.eval())
    convert(model)
    assert isinstance(model.rnn.hh_l0, QuantizedModule)
    assert error(outputs(model), rounded) < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_train_on_its_linears(kind):
    peft = pytest.importorskip("peft")
    model = hf_quant.quantize(tiny(kind), "int8", progress=False)
    expected = outputs(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["hh_l0", "ih_l1"], r=2))
    assert error(outputs(adapted), expected) < 1e-2
    for _ in range(2):
        adapted.train()(IDS).square().mean().backward()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.grad is not None:
                    parameter -= 10 * parameter.grad
    assert error(outputs(adapted.eval()), expected) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_compiled_and_exported_as_torch_lets_recurrent_modules(kind):
    model = hf_quant.quantize(tiny(kind), "int8", progress=False)
    expected = outputs(model)
    with torch._dynamo.config.patch(allow_rnn=True), torch.no_grad():
        assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(IDS), expected)
        assert torch.equal(torch.export.export(model, (IDS,)).module()(IDS), expected)


@pytest.mark.parametrize("solver", ["gptq", "signround"])
def test_calibration_sees_every_step(solver):
    model = Blocks(RecurrentConfig(labels=40)).eval()
    data = [{"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}]
    calibration = Calibration(data, samples=3)
    plain, solved = (
        hf_quant.quantize(copy.deepcopy(model), HfQuantConfig("w4a16", **given), progress=False)
        for given in ({}, {"recipe": Recipe(solver=solver), "calibration": calibration})
    )
    assert isinstance(solved.layers[1].rnn.hh_l0, QuantizedModule)
    assert error(outputs(solved), outputs(model)) < error(outputs(plain), outputs(model))


@pytest.mark.parametrize("preset", ["int16", "bf16", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_presets_save_and_reload(kind, preset, tmp_path):
    model = tiny(kind)
    quantized = hf_quant.quantize(copy.deepcopy(model), preset, progress=False)
    assert not quantized.rnn.is_float()
    expected = outputs(quantized)
    assert error(expected, outputs(model)) < (0.25 if preset == "int4" else 0.01)
    assert torch.equal(outputs(load(saved(quantized, tmp_path))), expected)
    assert quantized.dequantize().state_dict().keys() == model.state_dict().keys()
