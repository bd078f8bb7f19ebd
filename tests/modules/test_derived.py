"""Which derived classes have counterparts: seen by what they compute, on any device, whatever their names."""

import pytest
import torch
from torch import nn

from hf_quant.modules.derived import way_of
from hf_quant.modules.inventory import Inventory
from tests.modules import derived_classes as classes

AROUND = {
    "scaled": lambda: classes.ScaledEmbedding(40, 16),
    "padded": lambda: classes.ScaledEmbedding(40, 16, padding_idx=39),
    "offset": lambda: classes.OffsetEmbedding(40, 16),
    "few positions": lambda: classes.OffsetEmbedding(7, 16),
    "shaped": lambda: classes.ShapedEmbedding(40, 16),
    "normed": lambda: classes.NormedEmbedding(40, 16),
    "bare": lambda: classes.BareLinear(16, 24),
    "scaled linear": lambda: classes.ScaledLinear(16, 24),
    "without bias": lambda: classes.ScaledLinear(16, 24, bias=False),
    "scaled Conv1D": lambda: classes.ScaledConv1D(24, 16),
}
INSTEAD = {
    "written out": lambda: classes.WrittenOutLinear(16, 24),
    "without bias": lambda: classes.WrittenOutLinear(16, 24, bias=False),
    "without more": lambda: classes.LinearAndMore(16, 24),
}
OTHERS = {
    "sliced": lambda: classes.SlicedEmbedding(40, 16),
    "with a sum": lambda: classes.SumEmbedding(40, 16),
    "ids beyond": lambda: classes.EmbeddingAndMore(40, 16),
    "scaled input": lambda: classes.ScaledInputLinear(16, 24),
    "router": lambda: classes.Router(16, 24),
    "clamped": lambda: classes.ClampedLinear(16, 24),
    "clamped and written out": lambda: classes.ClampedWrittenOutLinear(16, 24),
    "noisy": lambda: classes.NoisyLinear(16, 24),
    "grouped": lambda: classes.GroupedLinear(16, 24),
    "with more": lambda: classes.LinearAndMore(16, 24, more=4),
}


@pytest.mark.parametrize("make", AROUND.values(), ids=AROUND)
def test_what_a_class_does_around_its_base_stays(make):
    assert way_of(make()) == "around"


@pytest.mark.parametrize("make", INSTEAD.values(), ids=INSTEAD)
def test_a_linear_in_other_words_gives_way(make):
    assert way_of(make()) == "instead"


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_computes_something_else_stays_float_and_says_so(make):
    module = make()
    assert way_of(module) is None
    inventory = Inventory.of(nn.ModuleDict({"it": module}))
    what = "an embedding, or reads all of it" if isinstance(module, nn.Embedding) else "a linear"
    assert "it" not in inventory.candidates
    assert inventory.unsupported["it"] == f"its class computes something else than {what}: {type(module).__name__}"


@pytest.mark.parametrize("make", [*AROUND.values(), *INSTEAD.values()], ids=[*AROUND, *INSTEAD])
def test_it_is_seen_without_weights_in_a_model_of_another_dtype(make):
    with torch.device("meta"):
        module = make().to(torch.bfloat16)
        ways = {way_of(module)}
    assert ways == {way_of(make())}
    (candidate,) = Inventory.of(nn.ModuleDict({"it": module})).candidates.values()
    assert candidate.width == 16


def test_it_is_seen_under_another_default_dtype_and_leaves_random_numbers_as_they_were():
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert way_of(classes.ScaledEmbedding(41, 16)) == "around"
        torch.set_rng_state(state)
        assert way_of(classes.ScaledEmbedding(42, 16, scale=1.0)) == "around"
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_large_table_takes_no_memory_to_see():
    with torch.device("meta"):
        table = classes.ScaledEmbedding(2**22, 4096)  # 64 GiB
    assert way_of(table) == "around"


def test_the_linear_that_attention_of_torch_reads_without_a_call_stays_float():
    inventory = Inventory.of(nn.ModuleDict({"it": nn.MultiheadAttention(16, 2)}))
    assert not inventory.candidates and "it.out_proj" in inventory.unsupported


def test_a_parametrized_linear_stays_float():
    module = nn.utils.parametrize.register_parametrization(nn.Linear(16, 24), "weight", nn.Identity())
    assert not Inventory.of(nn.ModuleDict({"it": module})).candidates
