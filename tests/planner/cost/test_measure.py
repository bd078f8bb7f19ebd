"""Measuring: real kernels, timed; a table that predicts and compares real models."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import LlamaConfig

from hf_quant.config.presets import PRESETS
from hf_quant.errors import ConfigError
from hf_quant.hardware.detect import cpu_features
from hf_quant.hardware.profiles import get_profile
from hf_quant.kernels.base import LinearSpec
from hf_quant.kernels.dispatch import select_kernel
from hf_quant.planner.cost import timing
from hf_quant.planner.cost.compare import compare_latency
from hf_quant.planner.cost.latency import Pass, attention_operations
from hf_quant.planner.cost.measure import SCHEMES, Effort, TableMeasurement, _copies, measure_table, quantized
from hf_quant.planner.cost.measured_profile import with_measured_rates
from hf_quant.planner.cost.overhead import measure_overhead
from hf_quant.planner.cost.table import KernelTable
from hf_quant.planner.cost.table_file import this_machine
from tests.integration.tiny import tiny_model
from tests.planner.cost.tables import LLAMA
from tests.planner.cost.tables import table as other_table

TINY = Effort(shapes=((128, 64), (128, 256)), tokens=(1, 16), rounds=3, turn=1e-4, memory=1 << 20, patience=0.5)


@pytest.fixture(scope="module")
def measured():
    return measure_table(TINY, progress=False)


def test_every_scheme_is_timed_at_every_shape_on_the_kernel_that_dispatch_chooses(measured):
    schemes = measured.schemes()
    assert schemes[0] is None and len(schemes) == 1 + len(SCHEMES) - len(measured.skipped)
    assert len(measured.cells) == len(schemes) * len(TINY.shapes) * len(TINY.tokens)
    for cell in measured.cells:
        if cell.scheme is not None and cell.scheme.weight.has_scales:
            spec = LinearSpec(cell.scheme, cell.inputs, cell.outputs)
            assert cell.kernel == select_kernel(spec, torch.device("cpu")).name


def test_bfloat16_is_left_out_with_the_reason_where_it_is_emulated(measured):
    assert ("bf16" in measured.skipped) == (not cpu_features().multiplies_bfloat16)


def test_a_measured_table_is_of_this_machine_and_comes_back_from_its_dict(measured):
    assert measured.machine == this_machine()
    assert KernelTable.from_dict(measured.to_dict()) == measured


@pytest.mark.parametrize("name", ["int8", "int8-static", "w8a16", "int4", "w4a16"])
def test_what_is_timed_computes_what_the_float_linear_does(name):
    torch.manual_seed(0)
    plain = torch.nn.Linear(128, 64, bias=False)
    module = quantized(plain, PRESETS[name].scheme_for("linear", 128) if "4" not in name else _grouped(name))
    input = torch.randn(8, 128).clamp(-3, 3)
    with torch.no_grad():
        expected = plain(input)
        assert (module(input) - expected).norm() / expected.norm() < 0.15


def _grouped(name):
    from hf_quant.config.plan import Candidate, fit

    return fit(PRESETS[name].linear, Candidate("linear", 128), name)


def test_measured_rates_take_the_place_of_unknown_ones(measured):
    profile = with_measured_rates(get_profile("host"), measured)
    assert profile.bandwidth.value == measured.read and profile.bandwidth.kind == "measured"
    assert profile.fp32.value == measured.multiply and profile.int8.value > 0
    with pytest.raises(ConfigError, match="a machine"):
        with_measured_rates(profile, other_table())


def test_a_real_model_is_timed_beside_its_prediction(measured):
    decoding = compare_latency(tiny_model("llama"), measured, Pass(tokens=1, context=8, logits=1), passes=3)
    forward = compare_latency(tiny_model("bert"), measured, Pass(tokens=16, batch=2), passes=3)
    for comparison in (decoding, forward):
        assert comparison.predicted.total > 0 and comparison.measured.median > 0
        assert comparison.error == comparison.predicted.total / comparison.measured.median - 1
    with pytest.raises(ConfigError, match="all logits"):
        compare_latency(tiny_model("bert"), measured, Pass(tokens=4, logits=1))


class Clock:
    """Time that passes only where a model says so: sums are then right to the last digit on a busy machine, too."""

    now = 0.0

    tick = 0.0
    """Seconds that pass whenever somebody looks."""

    def perf_counter(self):
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(timing, "time", found)
    return found


class Blocks(torch.nn.Module):
    """Blocks of a linear and, besides, two milliseconds."""

    def __init__(self, clock, hidden, layers):
        super().__init__()
        self.clock = clock
        self.embedding = torch.nn.Embedding(128, hidden)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(hidden, hidden) for _ in range(layers))

    def forward(self, input_ids):
        hidden = self.embedding(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
            self.clock.now += 2e-3
        return hidden


def test_what_blocks_take_besides_their_linears_is_found(clock):
    found = measure_overhead(partial(Blocks, clock), "llama", "float", rounds=2, turn=1e-6)
    assert found.block == pytest.approx(2)
    assert found.family == "llama" and found.kind == "float"


class Timed(torch.nn.Module):
    """Blocks that take half a millisecond, and more by what they attend to, hold and read."""

    def __init__(self, clock, hidden, layers, sharing=1):
        super().__init__()
        self.clock, self.hidden, self.layers = clock, hidden, layers
        self.embedding = torch.nn.Embedding(128, 4)
        self.config = LlamaConfig(num_hidden_layers=layers, num_key_value_heads=32 // sharing)

    def forward(self, input_ids, past_key_values=None, use_cache=False):
        sequences, tokens = input_ids.shape
        held = 0
        if past_key_values is not None:
            keys = torch.zeros(1, 1, tokens, 1)
            held = past_key_values.update(keys, keys, 0)[0].shape[2]
        operations = attention_operations(tokens, 0, sequences, self.hidden, causal=True)
        read = 2 * 4 * self.hidden * held
        kept = read * self.config.num_key_value_heads / self.config.num_attention_heads
        self.clock.now += self.layers * (5e-4 + 2e-11 * operations + 4e-10 * kept + 6e-10 * read)
        return self.embedding(input_ids)


def test_what_attention_and_a_cache_take_is_found(clock):
    found = measure_overhead(partial(Timed, clock), "llama", "float", rounds=2, turn=1e-4, decodes=True)
    assert found.attention == pytest.approx(2e-8)
    # Caches grow by a token with each call, those of the deep and of the shallow model not quite alike.
    assert found.cache_per_byte == pytest.approx(1e-6, rel=0.02) and not found.cache_per_read
    assert found.block == pytest.approx(0.5, rel=0.01)
    encoder = measure_overhead(partial(Timed, clock), "bert", "float", rounds=1, turn=1e-4)
    assert not encoder.cache_per_byte and not encoder.cache_block


def test_what_a_cache_holds_is_told_from_what_is_read_of_it(clock):
    own, sharing = partial(Timed, clock), partial(Timed, clock, sharing=4)
    found = measure_overhead(own, "llama", "float", rounds=2, turn=1e-4, decodes=True, sharing=sharing)
    assert found.cache_per_byte == pytest.approx(4e-7, rel=0.05)
    assert found.cache_per_read == pytest.approx(6e-7, rel=0.05)


def test_cells_and_overheads_are_the_medians_of_all_sweeps(clock):
    blocks = iter([0.1, 0.5, 0.4])
    effort = replace(TINY, tokens=(1,), rounds=2, turn=0.0)
    overheads = lambda quiet: (replace(LLAMA, block=next(blocks)),)  # noqa: E731
    measurement = TableMeasurement(effort, {}, overheads, progress=False)
    measurement.quiet._probes = itertools.repeat(1.0)
    for clock.tick in (1e-3, 5e-3, 2e-3):
        measurement.sweep()
    table = measurement.table()
    assert [(cell.inputs, cell.outputs, cell.tokens) for cell in table.cells] == [(128, 64, 1), (128, 256, 1)]
    assert [cell.milliseconds for cell in table.cells] == pytest.approx([2, 2])
    assert table.overheads == (replace(LLAMA, block=0.4),)


def test_sweeps_that_others_disturbed_are_left_out_of_overheads(clock):
    blocks = iter([(0.1, 0), (9.0, 5), (0.3, 0)])

    def overheads(quiet):
        block, disturbed = next(blocks)
        quiet.timed += 5
        quiet.disturbed += disturbed
        return (replace(LLAMA, block=block),)

    measurement = TableMeasurement(replace(TINY, tokens=(1,), turn=0.0), {}, overheads, progress=False)
    measurement.quiet._probes = itertools.repeat(1.0)
    clock.tick = 1e-3
    for _ in range(3):
        measurement.sweep()
    (found,) = measurement.table().overheads
    assert found.block == pytest.approx(0.2)


def test_turns_that_others_disturbed_are_left_out_of_cells(clock):
    effort = replace(TINY, shapes=((128, 64),), tokens=(1,), rounds=1, turn=0.0, patience=0.0)
    measurement = TableMeasurement(effort, {}, None, progress=False)
    for clock.tick, probe in ((5e-3, 2.0), (1e-3, 1.0), (1e-3, 1.05)):
        measurement.quiet._probes = itertools.repeat(probe)
        measurement.sweep()
    (cell,) = measurement.table().cells
    assert (cell.low, cell.high) == pytest.approx((1, 1))


def test_a_small_weight_is_copied_as_often_as_it_takes_to_come_from_memory():
    plain = torch.nn.Linear(8, 8, bias=False)
    assert len(_copies(plain, 100 * 256)) == 101
    assert len({copy.weight.data_ptr() for copy in _copies(plain, 100 * 256)}) == 101
