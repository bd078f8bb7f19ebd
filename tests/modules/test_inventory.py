"""What is surveyed of a model: candidates, ties of any number, heads, and what keeps a weight float."""

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

from hf_quant.config.presets import get_preset
from hf_quant.errors import PlanError
from hf_quant.modules.inventory import Inventory
from tests.integration.tiny import FAMILIES, tiny_model

INT8, INT4 = get_preset("int8"), get_preset("int4")
T5 = T5Config(vocab_size=96, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4)


class Parts(nn.ModuleDict):
    """A model of named parts, with what it declares."""

    def __init__(self, declared=None, head=None, **parts):
        super().__init__(parts)
        self.all_tied_weights_keys = declared or {}
        self.get_output_embeddings = head or (lambda: None)


def linears(*names):
    return {name: nn.Linear(8, 8) for name in names}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_of_each_family_is_a_head_and_tied_to_the_embedding(name, device):
    model = tiny_model(name)
    embedding = next(each for each, module in model.named_modules() if module is model.get_input_embeddings())
    head = next(each for each, module in model.named_modules() if module is model.get_output_embeddings())
    inventory = Inventory.of(model.to(device))
    assert inventory.ties == {head: embedding}
    assert inventory.candidates[head].kind == "head" and inventory.candidates[embedding].kind == "embedding"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_four_names_of_one_weight_have_one_owner_and_t5_has_a_head(device):
    with torch.device(device):
        inventory = Inventory.of(T5ForConditionalGeneration(T5))
    assert inventory.ties == dict.fromkeys(["encoder.embed_tokens", "decoder.embed_tokens", "lm_head"], "shared")
    assert inventory.heads == {"lm_head"}
    assert inventory.group("lm_head") == inventory.group("shared") and len(inventory.group("shared")) == 4


def test_chains_end_at_the_owner_in_whatever_order_they_are_declared():
    chain = {"c.weight": "b.weight", "b.weight": "a.weight", "d.weight": "c.weight"}
    with torch.device("meta"):
        for declared in (chain, dict(reversed(chain.items()))):
            assert Inventory.of(Parts(declared, **linears("d", "c", "b", "a"))).ties == dict.fromkeys("bcd", "a")


def test_a_circle_of_ties_has_one_owner():
    with torch.device("meta"):
        parts = Parts({"a.weight": "b.weight", "b.weight": "a.weight"}, **linears("a", "b"))
    assert Inventory.of(parts).ties == {"a": "b"}


def test_in_memory_a_declared_tie_of_two_weights_is_none():
    assert Inventory.of(Parts({"a.weight": "b.weight"}, **linears("a", "b"))).ties == {}


def test_modules_that_share_only_a_bias_are_not_tied():
    parts = Parts({"b.bias": "a.bias"}, **linears("a", "b"))
    parts["b"].bias = parts["a"].bias
    assert Inventory.of(parts) == Inventory.of(Parts(**linears("a", "b")))


def test_a_weight_held_by_what_cannot_be_quantized_stays_float():
    parts = Parts(**linears("a", "b"))
    parts.table = parts["a"].weight
    reasons = {}
    inventory = Inventory.of(parts)
    chosen = inventory.carried_out(dict.fromkeys("ab", INT8.linear), reasons)
    assert list(chosen) == ["b"] and reasons == {"a": "tied to table, which stays float"}


def test_a_weight_that_is_read_along_both_axes_stays_float():
    parts = Parts(a=nn.Linear(8, 8), b=Conv1D(8, 8))
    parts["b"].weight = parts["a"].weight
    assert Inventory.of(parts).held == {"a": "b", "b": "a"}


def test_declared_names_that_the_model_does_not_have_are_passed_over():
    with torch.device("meta"):
        assert Inventory.of(Parts({"a.weight": "gone.weight", "lost": "a.weight"}, **linears("a"))).ties == {}


def test_a_head_is_what_the_model_says_wherever_it_is():
    parts = Parts(inner=nn.ModuleDict(linears("a", "b")))
    parts.get_output_embeddings = lambda: parts["inner"]["b"]
    parts.base_model_prefix = "inner"
    assert Inventory.of(parts).heads == {"inner.b"}


@pytest.mark.parametrize("error", [NotImplementedError, AttributeError, KeyError])
def test_a_model_that_cannot_name_its_head_has_those_outside_its_base(error):
    def fail():
        raise error("no head")

    parts = Parts(head=fail, inner=nn.ModuleDict(linears("a")), out=nn.Linear(8, 8))
    parts.base_model_prefix = "inner"
    assert Inventory.of(parts).heads == {"out"}


def test_a_linear_tied_to_an_embedding_or_a_head_is_a_head():
    parts = Parts(table=nn.Embedding(8, 8), **linears("a", "b", "c", "free"))
    parts["a"].weight = parts["table"].weight
    parts["b"].weight = parts["c"].weight
    parts.get_output_embeddings = lambda: parts["c"]
    assert Inventory.of(parts).heads == {"a", "b", "c"} and Inventory.of(parts).linears() == ["free"]


def test_one_float_member_keeps_all_of_its_group_float():
    with torch.device("meta"):
        inventory = Inventory.of(T5ForConditionalGeneration(T5))
    reasons = {}
    schemes = dict.fromkeys(inventory.candidates, INT8.embedding) | {"decoder.embed_tokens": None}
    chosen = inventory.carried_out(schemes, reasons)
    assert not chosen.keys() & {"decoder.embed_tokens", *reasons}
    assert reasons.keys() == {"shared", "encoder.embed_tokens", "lm_head"}


def test_two_schemes_for_one_weight_are_refused():
    with torch.device("meta"):
        inventory = Inventory.of(T5ForConditionalGeneration(T5))
    schemes = dict.fromkeys(inventory.group("shared"), INT8.embedding) | {"lm_head": INT4.linear}
    with pytest.raises(PlanError, match="give both the same weight scheme"):
        inventory.carried_out(schemes, {})


@pytest.mark.parametrize(
    ("names", "ties"),
    [
        (["shared"], {"encoder": "shared", "lm_head": "shared"}),
        (["lm_head"], {"encoder": "shared", "lm_head": "shared"}),
        (["shared", "lm_head"], {"encoder": "shared"}),
        (["encoder", "lm_head"], {"encoder": "shared"}),
        (["shared", "encoder", "lm_head"], {}),
    ],
)
def test_of_weights_in_a_checkpoint_the_owners_or_the_first_counts_and_others_are_their_own(names, ties):
    every = Inventory(ties={"encoder": "shared", "lm_head": "shared"})
    found = every.ties_among(["shared", "encoder", "lm_head"], [f"{name}.weight" for name in names])
    assert found == ties
