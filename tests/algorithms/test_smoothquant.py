"""SmoothQuant: outliers of inputs move into weights, the model computes the same, and W8A8 loses less."""

from dataclasses import replace

import pytest
import torch

from hf_quant.algorithms import TRANSFORMS
from hf_quant.algorithms.base import scaled
from hf_quant.algorithms.smoothquant import SmoothQuant
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import CalibrationError, ConfigError
from tests.calibrated_blocks import PER_TOKEN, W4, W8A8, blocks_of, capture, first_block, logits, statistics
from tests.integration.tiny import CHECKPOINTS, error, tiny_model

OUTLIERS = [3, 17]
STATIC = Scheme(TensorScheme(), TensorScheme(granularity="tensor"))
GROUPS = Scheme(
    TensorScheme(bits=8, granularity="group", group_size=16),
    TensorScheme(granularity="group", group_size=16, dynamic=True),
)
NORMS = {"gpt2": ("ln_1", "ln_2"), "llama": ("input_layernorm", "post_attention_layernorm")}
NORMS["llama-gqa"] = NORMS["llama"]


def plant(family):
    """Outliers in the outputs of both norms, such as large language models have them."""

    def prepare(block):
        for norm in NORMS[family]:
            block.get_submodule(norm).weight[OUTLIERS] *= 40.0

    return prepare


def apply(transform, block, scheme, pairs=None, **changes):
    inputs = {name: replace(each, **changes) for name, each in block.inputs.items()}
    return transform.apply(block.module, block.pairs() if pairs is None else pairs, inputs, block.schemes(scheme))


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, "auto"])
@pytest.mark.parametrize("family", CHECKPOINTS)
def test_the_model_computes_the_same(family, alpha):
    model = tiny_model(family)
    before = logits(model)
    for block in blocks_of(model, family):
        found = apply(SmoothQuant(alpha, include_linears=True), block, W8A8)
        assert len(found.report) == len(block.pairs())
    assert error(logits(model), before) < 1e-5


@pytest.mark.parametrize("scheme", [W8A8, STATIC, GROUPS], ids=str)
@pytest.mark.parametrize("family", list(NORMS))
def test_w8a8_loses_less_on_inputs_with_outliers(family, scheme):
    lost = {}
    for alpha in (None, 0.5, "auto"):
        block = first_block(family, plant(family))
        expected = block.output()
        if alpha is not None:
            block.inputs = apply(SmoothQuant(alpha), block, scheme).inputs
        lost[alpha] = block.quantized_error(scheme, expected)
    assert lost[0.5] < 0.7 * lost[None]
    assert lost["auto"] < 0.7 * lost[None]


def test_scales_are_those_of_the_paper():
    block = first_block("gpt2", plant("gpt2"))
    pair = block.pairs()[0]
    before = state_of(block.module)
    apply(SmoothQuant(0.75), block, W8A8, [pair])
    largest = before["attn.c_attn.weight"].abs().amax(1)
    scales = block.inputs["attn.c_attn"].max_abs ** 0.75 / largest**0.25
    assert torch.allclose(block.module.ln_1.weight, before["ln_1.weight"] / scales)
    assert torch.allclose(block.module.attn.c_attn.weight, before["attn.c_attn.weight"] * scales[:, None])


def test_only_norms_are_producers_unless_told_otherwise():
    block = first_block("llama-gqa")
    before = state_of(block.module)
    found = apply(SmoothQuant(), block, W8A8)
    assert [line.split(" ->")[0] for line in found.report] == list(NORMS["llama"])
    assert torch.equal(block.module.mlp.down_proj.weight, before["mlp.down_proj.weight"])
    assert torch.equal(block.module.self_attn.o_proj.weight, before["self_attn.o_proj.weight"])


def test_statistics_afterwards_are_those_of_a_second_pass():
    model = tiny_model("llama-gqa")
    block = capture(model, ["model.layers.0"])["model.layers.0"]
    found = apply(SmoothQuant(include_linears=True), block, W8A8).inputs
    again = capture(model, ["model.layers.0"])["model.layers.0"].inputs
    assert list(found) == list(again)
    for name, expected in again.items():
        assert found[name].count == expected.count
        for field in ("mean", "mean_abs", "max_abs", "hessian"):
            assert error(getattr(found[name], field), getattr(expected, field)) < 1e-4, (name, field)


def test_statistics_are_scaled_without_a_hessian_too():
    rows = torch.randn(9, 4)
    scales = torch.tensor([1.0, 2.0, 0.5, 4.0])
    found, expected = scaled(replace(statistics(rows), hessian=None), scales), statistics(rows / scales)
    assert found.hessian is None and torch.allclose(found.mean_abs, expected.mean_abs)
    assert torch.allclose(scaled(statistics(rows), scales).hessian, expected.hessian)


@pytest.mark.parametrize("alpha", [0.5, "auto"])
def test_dead_channels_and_dead_weights_keep_their_scale(alpha):
    def prepare(block):
        block.input_layernorm.weight[5] = 0.0
        for name in ("q_proj", "k_proj", "v_proj"):
            block.self_attn.get_submodule(name).weight[:, 9] = 0.0

    block = first_block("llama", prepare)
    expected, before = block.output(), state_of(block.module)
    apply(SmoothQuant(alpha, include_linears=True), block, W8A8)
    weight = block.module.input_layernorm.weight
    assert weight[5] == 0.0 and weight[9] == before["input_layernorm.weight"][9]
    queries = block.module.self_attn.q_proj.weight
    assert torch.equal(queries[:, 5], before["self_attn.q_proj.weight"][:, 5])
    assert error(block.output(), expected) < 1e-5


@pytest.mark.parametrize(
    "scheme", [W4, Scheme(TensorScheme(format="bfloat", bits=16))], ids=["weights only", "bfloat16"]
)
def test_a_block_whose_inputs_stay_float_is_left_with_a_warning(scheme):
    block = first_block("llama")
    before = state_of(block.module)
    with pytest.warns(UserWarning, match="smoothquant found no pair"):
        found = apply(SmoothQuant(), block, scheme)
    assert found.report == [] and found.inputs == block.inputs and unchanged(block.module, before)


def test_a_block_whose_norms_feed_the_residual_is_left_with_a_warning():
    block = first_block("bert")
    before = state_of(block.module)
    with pytest.warns(UserWarning, match="smoothquant found no pair .* BertLayer"):
        apply(SmoothQuant(), block, W8A8)
    assert unchanged(block.module, before)


def test_auto_leaves_a_pair_that_no_alpha_improves():
    # One token of equal inputs and weights that are codes: nothing is lost, so nothing can be gained.
    block = first_block("gpt2")
    pair = block.pairs()[0]
    with torch.no_grad():
        block.module.attn.c_attn.weight.fill_(1.0)
    ones = {"mean": torch.ones(64), "max_abs": torch.ones(64), "hessian": torch.ones(64, 64)}
    before = state_of(block.module)
    found = apply(SmoothQuant("auto"), block, W8A8, [pair], **ones)
    assert "left as it is" in found.report[0] and unchanged(block.module, before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("alpha", [0.5, "auto"])
def test_statistics_with_nan_or_inf_are_refused_before_anything_changes(alpha, value):
    block = first_block("llama")
    before = state_of(block.module)
    spoiled = block.inputs["self_attn.q_proj"].max_abs.clone()
    spoiled[3] = value
    with pytest.raises(CalibrationError, match=r"max_abs of the inputs of self_attn\.q_proj holds NaN or Inf"):
        apply(SmoothQuant(alpha), block, W8A8, max_abs=spoiled)
    assert unchanged(block.module, before)


def test_statistics_that_are_missing_are_refused():
    block = first_block("llama")
    pairs, schemes = block.pairs(), block.schemes(W8A8)
    with pytest.raises(CalibrationError, match=r"no statistics of the inputs of self_attn\.q_proj"):
        SmoothQuant().apply(block.module, pairs, {}, schemes)
    with pytest.raises(CalibrationError, match="lack hessian"):
        apply(SmoothQuant("auto"), block, W8A8, pairs, hessian=None)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, "0.5", True, None, float("nan")])
def test_alpha_is_a_share_or_auto(alpha):
    with pytest.raises(ConfigError, match="alpha is a number from 0 to 1"):
        SmoothQuant(alpha)


def test_it_asks_for_no_more_than_it_takes():
    assert TRANSFORMS["smoothquant"] is SmoothQuant
    assert SmoothQuant().needs == {"max_abs"} and SmoothQuant("auto").needs == {"max_abs", "mean", "hessian"}
    block = first_block("gpt2")
    bare = {"mean": torch.full((64,), torch.nan), "hessian": None}
    assert len(apply(SmoothQuant(), block, Scheme(TensorScheme(), PER_TOKEN), **bare).report) == 2
