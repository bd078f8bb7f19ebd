"""Learned rounding: better than nearest on a block's output, never worse, reproducible, and harmless to the block."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from hf_quant.algorithms import BLOCK_SOLVERS
from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.algorithms.signround import SIGNROUND_PRESETS, SignRound, SignRoundOptions
from hf_quant.algorithms.signround_block import BlockRunner
from hf_quant.algorithms.signround_rounding import LearnedRounding
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import CalibrationError, ConfigError, UnsupportedModel, WeightError
from hf_quant.formats import format_of
from hf_quant.formats.packing import unpack
from hf_quant.formats.rotation import rotate
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.weights import fake_quantize_input
from tests.integration.tiny import FAMILIES, tiny_model, token_ids
from tests.zero_points import zero_points_of

STEPS = SignRoundOptions(steps=20, batch_size=4)
W4 = TensorScheme(bits=4, symmetric=False, granularity="group", group_size=16)
GRAINS = [("tensor", None), ("channel", None), ("group", 16)]


class Case:
    """The first block of a tiny model, what it is called with for two batches of four texts, and what it gives."""

    def __init__(self, family, padded=False, dtype=torch.float32, seed=0):
        model = tiny_model(family, seed=seed).to(dtype)
        model.config.use_cache = False  # as in calibration: a cache would grow with each run of the block
        layers = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        self.block = layers[0][0]
        self.batches, self.targets, self.keep = [], [], []
        before = self.block.register_forward_pre_hook(self._called, with_kwargs=True)
        after = self.block.register_forward_hook(lambda module, args, output: self.targets.append(first(output)))
        for batch in range(2):
            mask = torch.ones(4, 16, dtype=torch.long)
            mask[:, 12:] = 0 if padded else 1
            with torch.no_grad():
                model(input_ids=token_ids(4, 16, seed=batch), attention_mask=mask)
            self.keep.append(mask.bool() if padded else None)
        before.remove()
        after.remove()

    def _called(self, module, args, kwargs):
        self.batches.append((args, kwargs))

    def schemes(self, weight=W4, input=None):
        return {
            name: Scheme(weight, input)
            for name, module in self.block.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        }

    def learn(self, schemes, options=STEPS, seed=0):
        return SignRound(options).learn(self.block, schemes, self.batches, self.targets, self.keep, seed)

    @torch.no_grad()
    def loss(self, weights, schemes):
        """Mean squared error of the block with these weights, found without the code under test."""
        block = copy.deepcopy(self.block).float().eval()
        for name, solved in weights.items():
            linear = block.get_submodule(name)
            shape = rows_of(linear).shape
            real = decoded(solved, schemes[name].weight, shape)
            spec = LinearSpec(schemes[name], shape[1], shape[0])
            linear.weight.copy_(real.t() if isinstance(linear, Conv1D) else real)
            linear.register_forward_pre_hook(quantizing_hook(spec, solved))
        total = count = 0
        for (args, kwargs), target, keep in zip(self.batches, self.targets, self.keep, strict=True):
            output, target = first(block(*floats(args), **floats(kwargs))), target.float()
            keep = torch.ones(target.shape[:-1], dtype=torch.bool) if keep is None else keep
            total += (output - target)[keep].double().square().sum().item()
            count += target[keep].numel()
        return total / count


def first(output):
    return output[0] if isinstance(output, tuple) else output


def floats(value):
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(map(floats, value))
    return {key: floats(item) for key, item in value.items()} if isinstance(value, dict) else value


def rows_of(linear):
    return linear.weight.detach().t() if isinstance(linear, Conv1D) else linear.weight.detach()


def decoded(solved, scheme, shape):
    """Float rows that codes stand for, in the rotated space where the scheme rotates."""
    codes = unpack(solved["codes"], scheme.bits, shape[1]).unflatten(-1, (solved["scale"].shape[1], -1))
    zero_point = zero_points_of(solved, scheme)
    zero_point = None if zero_point is None else zero_point[..., None]
    return format_of(scheme).decode(codes, solved["scale"].float()[..., None], zero_point).flatten(-2)


def quantizing_hook(spec, solved):
    operands = LinearOperands(solved)

    def hook(module, args):
        flat = fake_quantize_input(args[0].flatten(0, -2), operands, spec)
        return (flat.view_as(args[0]),)

    return hook


def nearest(case, schemes):
    return {
        name: RoundToNearest().solve(rows_of(case.block.get_submodule(name)), scheme.weight, name)
        for name, scheme in schemes.items()
    }


def same(left, right):
    return all(
        all(torch.equal(tensor, right[name][key]) for key, tensor in solved.items()) for name, solved in left.items()
    )


def snapshot(block):
    return {name: (tensor, tensor.clone()) for name, tensor in block.state_dict(keep_vars=True).items()}


def assert_untouched(block, before, training=False):
    after = block.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for name, (tensor, values) in before.items():
        assert after[name] is tensor and torch.equal(tensor, values) and tensor.grad is None
    for module in block.modules():
        assert module.training == training and not module._forward_pre_hooks


@pytest.mark.parametrize(("granularity", "size"), GRAINS, ids=[grain for grain, _ in GRAINS])
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_beats_rounding_to_nearest_on_the_output_of_a_block(family, bits, symmetric, granularity, size):
    case = Case(family)
    schemes = case.schemes(TensorScheme(bits=bits, symmetric=symmetric, granularity=granularity, group_size=size))
    learned = case.learn(schemes)
    found, baseline = case.loss(learned.weights, schemes), case.loss(nearest(case, schemes), schemes)
    assert found < 0.9 * baseline
    assert learned.loss == pytest.approx(found, rel=1e-4)
    assert learned.nearest_loss == pytest.approx(baseline, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_steps_find_more(family):
    case = Case(family)
    few, many = (case.learn(case.schemes(), replace(STEPS, steps=steps)).loss for steps in (10, 100))
    assert many < few


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_is_never_worse_than_rounding_to_nearest(family, bits):
    case = Case(family)
    schemes = case.schemes(replace(W4, bits=bits))
    learned = case.learn(schemes, replace(STEPS, steps=1))
    assert learned.loss <= learned.nearest_loss
    if learned.steps == 0:
        assert same(learned.weights, nearest(case, schemes))


@pytest.mark.parametrize("rate", [50.0, 1e-9])
def test_a_learning_rate_that_finds_nothing_leaves_the_nearest_codes(rate):
    case = Case("llama")
    schemes = case.schemes(replace(W4, bits=8))
    learned = case.learn(schemes, replace(STEPS, steps=2, learning_rate=rate))
    assert learned.loss <= learned.nearest_loss
    assert learned.steps or same(learned.weights, nearest(case, schemes))


@pytest.mark.parametrize("granularity", [grain for grain, _ in GRAINS])
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("rotation", [None, 16])
def test_it_starts_from_rounding_to_nearest_bit_for_bit(granularity, symmetric, bits, rotation):
    scheme = TensorScheme(
        "int", bits, symmetric, granularity, group_size=16 if granularity == "group" else None, rotation=rotation
    )
    weight = torch.randn(6, 48, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 6)[:, None]
    weight[1], weight[2] = 0.0, 0.75
    rounding = LearnedRounding(weight, scheme, "w")
    assert same({"w": rounding.solved()}, {"w": RoundToNearest().solve(weight, scheme, "w")})
    rounding.weight.grad = torch.randn(6, 48, generator=torch.Generator().manual_seed(1))
    rounding.step(0.3, 0.2)
    assert torch.equal(decoded(rounding.solved(), scheme, weight.shape), rounding.weight.detach())


@pytest.mark.parametrize("granularity", [grain for grain, _ in GRAINS])
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
def test_a_step_follows_the_gradients_that_autograd_finds(granularity, symmetric):
    scheme = TensorScheme("int", 3, symmetric, granularity, group_size=16 if granularity == "group" else None)
    format = replace(format_of(scheme), scale_dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    weight, slope = torch.randn(6, 48, generator=generator), torch.randn(6, 48, generator=generator)
    rounding = LearnedRounding(weight, scheme, "w")
    for _ in range(3):  # away from the start, so that clamped weights are among them
        rounding.weight.grad = slope.clone()
        rounding.step(0.1, 0.2)
    tensors = [t.clone().requires_grad_() for t in (rounding._offset, rounding._alpha, rounding._beta)]
    offset, alpha, beta = tensors
    through = lambda value, rounded: value + (rounded - value).detach()  # noqa: E731
    low, high = alpha * rounding._low, beta * rounding._high
    if symmetric:
        # Of one side the number is zero: the lowest code is that of the other.
        scale, zero_point = (low + high) / format.quant_min, 0.0
    else:
        scale = (high - low) / (format.quant_max - format.quant_min)
        scale = through(scale, rounding._scale[: scale.shape[0]])
        zero_point = format.quant_min - low / scale
        zero_point = through(zero_point, zero_point.round())
    scale = through(scale, rounding._scale[: scale.shape[0]])
    codes = rounding._real / scale + offset
    codes = (through(codes, codes.round()) + zero_point).clamp(format.quant_min, format.quant_max)
    ((codes - zero_point) * scale * slope.view_as(codes)).sum().backward()
    before = [t.detach().clone() for t in (rounding._offset, rounding._alpha, rounding._beta)]
    rounding.weight.grad = slope.clone()
    rounding.step(1e-3, 1e-3)
    after = (rounding._offset, rounding._alpha, rounding._beta)
    for tensor, old, new, bound in zip(tensors, before, after, (0.5, 1.0, 1.0), strict=True):
        expected = (old - 1e-3 * tensor.grad.sign()).clamp(-bound, bound)
        # A sum near zero may have either sign in float32.
        assert (expected - new).abs().gt(1e-6).float().mean() <= 0.03


def test_numbers_stay_in_their_ranges():
    rounding = LearnedRounding(torch.randn(4, 32), replace(W4, bits=2), "w")
    for step in range(20):
        rounding.weight.grad = torch.randn(4, 32, generator=torch.Generator().manual_seed(step))
        rounding.step(0.4, 0.4)
    assert rounding._offset.abs().max() == 0.5
    for clip in (rounding._alpha, rounding._beta):
        assert clip.min() > 0 and clip.max() <= 1


def test_the_seed_determines_the_codes():
    case = Case("llama")
    first_run, again, other = (case.learn(case.schemes(), seed=seed) for seed in (3, 3, 4))
    assert same(first_run.weights, again.weights) and first_run.loss == again.loss
    assert not same(first_run.weights, other.weights)


def test_global_random_numbers_are_not_drawn():
    case = Case("llama")
    state = torch.get_rng_state()
    case.learn(case.schemes(), replace(STEPS, steps=2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_the_block_is_as_it_was(family, training):
    case = Case(family)
    case.block.train(training)
    before = snapshot(case.block)
    token = TensorScheme(symmetric=False, granularity="token", dynamic=True)
    case.learn(case.schemes(replace(W4, rotation=16), token), replace(STEPS, steps=2))
    assert_untouched(case.block, before, training)


@pytest.mark.parametrize("call", [1, 5])
def test_the_block_is_as_it_was_after_an_error(call):
    case = Case("llama")
    before, calls = snapshot(case.block), []
    attention = case.block.self_attn
    original = attention.forward

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("out of memory")
        return original(*args, **kwargs)

    attention.forward = failing
    token = TensorScheme(symmetric=False, granularity="token", dynamic=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        case.learn(case.schemes(input=token))
    del attention.forward
    assert_untouched(case.block, before)


@pytest.mark.parametrize(
    ("weight", "input"),
    [
        (W4, TensorScheme(granularity="group", group_size=16, dynamic=True)),
        (replace(W4, rotation=32), TensorScheme(granularity="group", group_size=16, dynamic=True)),
        (TensorScheme(bits=8, rotation=32), TensorScheme(symmetric=False, granularity="token", dynamic=True)),
        (TensorScheme(bits=3, rotation=16), None),
        (TensorScheme(bits=4), TensorScheme(granularity="tensor", dynamic=True)),
    ],
    ids=lambda scheme: str(scheme and f"{scheme.bits}-{scheme.granularity}-{scheme.rotation}"),
)
@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_rotated_and_quantized_in_the_loop(family, weight, input):
    case = Case(family)
    schemes = case.schemes(weight, input)
    learned = case.learn(schemes)
    # With 8 bits, what the rounding of inputs costs hides the weights'.
    assert learned.loss < learned.nearest_loss or weight.bits == 8
    # Codes of inputs on an edge between two may fall either way.
    assert learned.loss == pytest.approx(case.loss(learned.weights, schemes), rel=2e-2)


def test_linears_that_share_an_input_share_its_codes(monkeypatch):
    case = Case("llama")
    schemes = case.schemes(input=TensorScheme(symmetric=False, granularity="token", dynamic=True))
    quantized = []
    whole = BlockRunner.run.__globals__["_FakeQuantize"].forward
    monkeypatch.setattr(
        "hf_quant.algorithms.signround_block._FakeQuantize.forward",
        staticmethod(lambda *args: quantized.append(1) or whole(*args)),
    )
    runner = BlockRunner(case.block, schemes)
    weights = {name: rows_of(linear) for name, linear in runner.linears.items()}
    with runner.prepared(), torch.no_grad():
        runner.run(weights, *case.batches[0])
    assert len(quantized) == 4  # of query, key and value; of output; of gate and up; of down


def test_rotated_weights_without_rounding_give_the_output_of_the_block():
    for family in FAMILIES:
        case = Case(family)
        runner = BlockRunner(case.block, case.schemes(TensorScheme(bits=16, rotation=16)))
        weights = {name: rotate(rows_of(linear), 16) for name, linear in runner.linears.items()}
        with runner.prepared(), torch.no_grad():
            output = runner.run(weights, *case.batches[0])
        assert torch.allclose(output, case.targets[0], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_matter(family):
    case = Case(family, padded=True)
    wanted = case.learn(case.schemes())
    for (args, kwargs), target, keep in zip(case.batches, case.targets, case.keep, strict=True):
        target[~keep] = math.nan
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden[~keep] = torch.randn(hidden[~keep].shape) * 7
    found = case.learn(case.schemes())
    assert same(found.weights, wanted.weights)
    assert found.loss == wanted.loss


def test_batches_without_a_token_that_counts_do_not_matter():
    case = Case("llama")
    case.keep[1] = torch.zeros(4, 16, dtype=torch.bool)
    case.targets[1].fill_(math.nan)
    found = case.learn(case.schemes())
    for part in (case.batches, case.targets, case.keep):
        part.pop()
    assert same(found.weights, case.learn(case.schemes()).weights)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_in_bfloat16_and_gradients_in_bfloat16_do_as_well(family, autocast):
    case = Case(family, dtype=torch.bfloat16)
    before = snapshot(case.block)
    schemes = case.schemes()
    learned = case.learn(schemes, replace(STEPS, autocast=autocast))
    assert learned.loss < 0.9 * learned.nearest_loss
    assert learned.loss == pytest.approx(case.loss(learned.weights, schemes), rel=1e-3)
    assert_untouched(case.block, before)


def test_it_learns_from_tensors_of_inference_mode():
    case = Case("llama")
    with torch.inference_mode():
        case.batches = [
            (tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in args), kwargs)
            for args, kwargs in case.batches
        ]
        case.targets = [target.clone() for target in case.targets]
        learned = case.learn(case.schemes())
    assert learned.loss < learned.nearest_loss


def test_only_the_named_linears_are_solved():
    case = Case("llama")
    schemes = {"mlp.down_proj": Scheme(W4)}
    assert list(case.learn(schemes).weights) == ["mlp.down_proj"]
    assert case.learn({}).weights == {}


@pytest.mark.parametrize("where", ["targets", "inputs"])
def test_nan_is_reported_with_the_name_of_the_block(where):
    case = Case("llama")
    before = snapshot(case.block)
    tensor = case.targets[1] if where == "targets" else (case.batches[1][0] or [case.batches[1][1]["hidden_states"]])[0]
    tensor[0, 3, 5] = math.nan
    with pytest.raises(CalibrationError, match=r"LlamaDecoderLayer hold NaN or Inf"):
        case.learn(case.schemes())
    assert_untouched(case.block, before)


def test_nan_in_a_weight_is_reported_with_its_name():
    case = Case("gpt2")
    with torch.no_grad():
        case.block.mlp.c_fc.weight[2, 3] = math.inf
    with pytest.raises(WeightError, match=r"mlp\.c_fc of GPT2Block holds NaN or Inf"):
        case.learn(case.schemes())


def test_calibration_data_that_does_not_fit_is_refused():
    case = Case("llama")
    solver, schemes = SignRound(STEPS), case.schemes()
    with pytest.raises(CalibrationError, match="2 batches of inputs, 1 of targets and 2 masks"):
        solver.solve_block(case.block, schemes, case.batches, case.targets[:1], case.keep, 0)
    with pytest.raises(CalibrationError, match=r"it must be bool \[4, 16\]"):
        solver.solve_block(case.block, schemes, case.batches, case.targets, [torch.ones(4, 16)] * 2, 0)
    with pytest.raises(CalibrationError, match="no token is left to calibrate LlamaDecoderLayer"):
        solver.solve_block(case.block, schemes, case.batches, case.targets, [torch.zeros(4, 16).bool()] * 2, 0)
    with pytest.raises(CalibrationError, match="no token"):
        solver.solve_block(case.block, schemes, [], [], [], 0)


@pytest.mark.parametrize("positional", [True, False])
def test_caches_among_the_inputs_are_refused(positional):
    case = Case("gpt2")
    hidden, cache = case.batches[0][0][0], DynamicCache()
    case.batches[0] = ((hidden, cache), {}) if positional else ((hidden,), {"past_key_values": cache})
    with pytest.raises(CalibrationError, match="use_cache=False"):
        case.learn(case.schemes())


def test_names_and_schemes_that_do_not_fit_are_refused():
    case = Case("llama")
    with pytest.raises(UnsupportedModel, match="mlp of LlamaDecoderLayer is a LlamaMLP"):
        case.learn({"mlp": Scheme(W4)})
    with pytest.raises(UnsupportedModel, match=r"mlp\.third of LlamaDecoderLayer is nothing"):
        case.learn({"mlp.third": Scheme(W4)})
    with pytest.raises(
        ConfigError, match="signround, which learns roundings, needs an even grid, of format int: 'bfloat' has none"
    ):
        case.learn({"mlp.up_proj": Scheme(TensorScheme(format="bfloat", bits=16))})


@pytest.mark.parametrize(
    "values",
    [
        *({"steps": 0}, {"steps": True}, {"batch_size": 1.5}, {"learning_rate": 0.0}, {"learning_rate": math.inf}),
        *({"minmax_learning_rate": "fast"}, {"autocast": 1}),
    ],
    ids=str,
)
def test_options_are_validated(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        SignRoundOptions(**values)


def test_the_table_names_it():
    assert BLOCK_SOLVERS["signround"] is SignRound
    assert SignRound().options == SIGNROUND_PRESETS["default"]
    assert SIGNROUND_PRESETS["fast"].steps == 50
