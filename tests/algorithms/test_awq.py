"""AWQ: weights on large inputs are rounded more finely, the model computes the same, and INT4 loses less."""

from dataclasses import replace

import pytest
import torch

from hf_quant.algorithms import TRANSFORMS
from hf_quant.algorithms.awq import Awq
from hf_quant.algorithms.awq_clip import AwqClip, clip
from hf_quant.algorithms.pair_error import pair_errors
from hf_quant.algorithms.rounding import rounded_weight
from hf_quant.calibration.pairs import find_pairs, weight_matrix
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import CalibrationError, WeightError
from tests.calibrated_blocks import W4, W8A8, blocks_of, capture, first_block, logits, statistics
from tests.integration.tiny import CHECKPOINTS, error, tiny_model

OUTLIERS = [3, 17]
SYMMETRIC = Scheme(TensorScheme(bits=4, granularity="group", group_size=32))
PER_CHANNEL = Scheme(TensorScheme(bits=4))
ROTATED = Scheme(TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32, rotation=16))
BF16 = Scheme(TensorScheme(format="bfloat", bits=16))


def plant(block):
    """Two channels of every pair's producer that are larger than the others, in each family."""
    for name, module in block.named_modules():
        if "norm" in name or "ln_" in name or name.endswith(("value", "v_proj", "up_proj")):
            module.weight[OUTLIERS] *= 20.0
        elif name.endswith("c_attn"):
            module.weight[:, [128 + channel for channel in OUTLIERS]] *= 20.0


def apply(transform, block, scheme, pairs=None, **changes):
    inputs = {name: replace(each, **changes) for name, each in block.inputs.items()}
    return transform.apply(block.module, block.pairs() if pairs is None else pairs, inputs, block.schemes(scheme))


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def hessian_error(weight, target, hessian):
    difference = weight - target
    return ((difference @ hessian) * difference).sum().item()


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_the_model_computes_the_same(family):
    model = tiny_model(family)
    before = logits(model)
    for block in blocks_of(model, family):
        assert len(apply(Awq(), block, W4).report) == len(block.pairs())
    assert error(logits(model), before) < 1e-5


@pytest.mark.parametrize("scheme", [W4, SYMMETRIC, PER_CHANNEL], ids=str)
@pytest.mark.parametrize("family", CHECKPOINTS)
def test_int4_loses_less_on_inputs_with_outliers(family, scheme):
    block = first_block(family, plant)
    expected = block.output()
    before = block.quantized_error(scheme, expected)
    report = apply(Awq(), block, scheme).report
    assert any("ratio" in line for line in report)
    # Per channel the grid without AWQ is good already.
    assert block.quantized_error(scheme, expected) < (0.98 if scheme is PER_CHANNEL else 0.95) * before


def test_the_error_that_is_minimised_is_that_of_the_outputs():
    torch.manual_seed(0)
    rows, scales = torch.randn(300, 64) * torch.logspace(-1, 1, 64), torch.rand(64) + 0.5
    block = first_block("gpt2")
    weight = weight_matrix(block.module.mlp.c_fc).detach()
    pair = next(pair for pair in block.pairs() if pair.consumers == ("mlp.c_fc",))
    inputs = {"mlp.c_fc": statistics(rows)}
    (found,) = pair_errors(block.module, [pair], inputs, {"mlp.c_fc": W4}, Awq.needs, "awq")
    outputs = (rows / scales) @ rounded_weight(weight * scales, W4.weight, "c_fc").T
    expected = (outputs - rows @ weight.T).square().sum(-1).mean().item()
    assert found.of_weights(scales) == pytest.approx(expected, rel=1e-4)


def test_statistics_afterwards_are_those_of_a_second_pass():
    model = tiny_model("gpt2")
    block = capture(model, ["transformer.h.0"])["transformer.h.0"]
    found = apply(Awq(), block, W4).inputs
    again = capture(model, ["transformer.h.0"])["transformer.h.0"].inputs
    for name, expected in again.items():
        for field in ("mean", "mean_abs", "max_abs", "hessian"):
            assert error(getattr(found[name], field), getattr(expected, field)) < 1e-4, (name, field)


class Gated(torch.nn.Module):
    """Both of its first linears are linear in their channels, and share a consumer."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = (torch.nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        return self.down(self.gate(x).relu() * self.up(x))


def test_two_pairs_with_one_consumer_scale_its_statistics_twice():
    torch.manual_seed(0)
    module, rows = Gated().eval(), torch.randn(200, 64)
    with torch.no_grad():
        module.up.weight[OUTLIERS] *= 50.0
    before = module(rows)
    pairs = find_pairs(module, (rows,), {})
    assert [(pair.producer, pair.consumers) for pair in pairs] == [("gate", ("down",)), ("up", ("down",))]
    inputs = {"down": statistics((module.gate(rows).relu() * module.up(rows)).detach())}
    found = Awq().apply(module, pairs, inputs, {"down": W4})
    again = statistics((module.gate(rows).relu() * module.up(rows)).detach())
    assert len(found.report) == 2 and error(found.inputs["down"].hessian, again.hessian) < 1e-4
    assert error(inputs["down"].hessian, again.hessian) > 0.1
    assert error(module(rows), before) < 1e-5


def test_heads_that_share_values_share_their_scales():
    block = first_block("llama-gqa", plant)
    before = state_of(block.module)
    apply(Awq(), block, W4)
    attention = block.module.self_attn
    scales = (attention.o_proj.weight / before["self_attn.o_proj.weight"]).mean(0).view(2, 2, 16)
    assert scales.std() > 0.01
    assert torch.allclose(scales[:, 0], scales[:, 1], rtol=1e-5)


def test_dead_channels_keep_their_scale():
    def prepare(block):
        block.input_layernorm.weight[5] = 0.0
        block.self_attn.v_proj.weight.zero_()

    block = first_block("llama", prepare)
    expected, before = block.output(), state_of(block.module)
    apply(Awq(), block, W4)
    queries = block.module.self_attn.q_proj.weight
    assert torch.equal(queries[:, 5], before["self_attn.q_proj.weight"][:, 5])
    assert torch.equal(block.module.self_attn.o_proj.weight, before["self_attn.o_proj.weight"])
    assert error(block.output(), expected) < 1e-5


@pytest.mark.parametrize("transform", [Awq(), AwqClip()])
def test_a_block_that_stays_float_is_left_with_a_warning(transform):
    block = first_block("llama")
    before = state_of(block.module)
    with pytest.warns(UserWarning, match="found no .* LlamaDecoderLayer"):
        found = apply(transform, block, BF16)
    assert found.report == [] and found.inputs == block.inputs and unchanged(block.module, before)


def test_no_pairs_are_a_warning_and_no_change():
    block = first_block("llama")
    before = state_of(block.module)
    with pytest.warns(UserWarning, match="awq found no pair"):
        apply(Awq(), block, W4, [])
    assert unchanged(block.module, before)


@pytest.mark.parametrize("transform", [Awq(), AwqClip()])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_statistics_with_nan_or_inf_are_refused_before_anything_changes(transform, value):
    block = first_block("llama")
    before = state_of(block.module)
    inputs = dict(block.inputs)
    spoiled = inputs["self_attn.q_proj"].hessian.clone()
    spoiled[3, 4] = value
    inputs["self_attn.q_proj"] = replace(inputs["self_attn.q_proj"], hessian=spoiled)
    with pytest.raises(CalibrationError, match=r"hessian of the inputs of self_attn\.q_proj holds NaN or Inf"):
        transform.apply(block.module, block.pairs(), inputs, block.schemes(W4))
    assert unchanged(block.module, before)


def test_weights_with_nan_are_refused():
    block = first_block("llama")
    pairs = block.pairs()
    with torch.no_grad():
        block.module.mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(WeightError, match=r"mlp\.down_proj holds NaN or Inf"):
        apply(Awq(), block, W4, pairs)


@pytest.mark.parametrize("scheme", [W4, SYMMETRIC, PER_CHANNEL, ROTATED], ids=str)
def test_clipping_never_raises_the_error_within_groups(scheme):
    torch.manual_seed(0)
    weight = torch.randn(24, 64) ** 3
    size = scheme.weight.group_size or 64
    # Inputs of different groups do not go together, so that the error of a row is the sum of its groups'.
    hessian = torch.block_diag(*(statistics(torch.randn(200, size) ** 3).hessian for _ in range(64 // size)))
    clipped, share = clip(weight, scheme.weight, hessian, "weight")
    before = hessian_error(rounded_weight(weight, scheme.weight, "weight"), weight, hessian)
    after = hessian_error(rounded_weight(clipped, scheme.weight, "weight"), weight, hessian)
    assert after < 0.98 * before
    assert after / before == pytest.approx(share, rel=1e-2)


def test_clipped_weights_lie_in_a_share_of_their_range():
    torch.manual_seed(0)
    weight = torch.randn(24, 64) ** 3
    clipped, _ = clip(weight, W4.weight, statistics(torch.randn(200, 64)).hessian, "weight")
    shares = clipped.view(24, 2, 32).abs().amax(-1) / weight.view(24, 2, 32).abs().amax(-1)
    assert shares.min() >= 0.5 and shares.max() <= 1 and shares.min() < 1
    bound = clipped.view(24, 2, 32).abs().amax(-1, keepdim=True)
    assert torch.equal(clipped.view(24, 2, 32), weight.view(24, 2, 32).clamp(-bound, bound))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_int4_loses_less_with_clipped_weights(family):
    def heavy_tails(block):
        for parameter in block.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter * parameter.abs() * 4)

    block = first_block(family, heavy_tails)
    expected = block.output()
    before = block.quantized_error(W4, expected)
    found = apply(AwqClip(), block, W4)
    assert len(found.report) == len(block.inputs) and found.inputs == block.inputs
    assert block.quantized_error(W4, expected) < 0.98 * before


def test_weights_that_are_zero_or_on_the_grid_are_not_clipped():
    block = first_block("gpt2")
    with torch.no_grad():
        block.module.attn.c_attn.weight.zero_()
        block.module.mlp.c_fc.weight.sign_()
    before = state_of(block.module)
    apply(AwqClip(), block, Scheme(TensorScheme(bits=8)))
    assert torch.equal(block.module.attn.c_attn.weight, before["attn.c_attn.weight"])
    assert torch.equal(block.module.mlp.c_fc.weight, before["mlp.c_fc.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_stay(dtype):
    block = first_block("gpt2", plant)
    block.module.to(dtype)
    apply(Awq(), block, W4)
    apply(AwqClip(), block, W8A8)
    assert {tensor.dtype for tensor in block.module.state_dict().values()} == {dtype}


def test_the_table_has_both():
    assert TRANSFORMS["awq"] is Awq and TRANSFORMS["awq-clip"] is AwqClip
    assert Awq.needs == {"hessian", "mean_abs"} and AwqClip.needs == {"hessian"}
