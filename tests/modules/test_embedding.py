"""Quantized embeddings: rows of the decoded table, in the dtype of the model."""

from itertools import product

import pytest
import torch
from torch import nn

from hf_quant.modules.embedding import QuantizedEmbedding
from hf_quant.modules.state import stored_state
from tests.naming import naming
from tests.quantized_linear import DTYPES, SCHEMES, make_operands, spec_for
from tests.quantized_modules import COPIES

IDS = torch.tensor([[0, 19, 3], [3, 3, 1]])
SPECS = {name: spec for name in SCHEMES if (spec := spec_for(name, 64, 20)) is not None and spec.scheme.input is None}
every_scheme = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def make_embedding(spec, padding_idx=None, dtype=torch.float32, seed=0):
    module = QuantizedEmbedding(spec.out_features, spec.in_features, padding_idx, spec.scheme, dtype=dtype)
    operands = make_operands(spec, seed=seed)
    module.fill(operands.weight)
    module.prepare()
    return module


@every_scheme
def test_rows_are_those_of_the_decoded_table(spec):
    for dtype in DTYPES:
        with naming(dtype):
            module = make_embedding(spec, dtype=dtype)
            rows = module(IDS)
            assert rows.dtype == dtype and torch.equal(rows, module.dequantized_weight()[IDS].to(dtype))


@every_scheme
def test_indices_may_have_any_shape(spec):
    module = make_embedding(spec)
    for shape, index in product([(), (4,), (2, 3, 2), (0,), (2, 0)], [torch.int64, torch.int32]):
        with naming(shape, index):
            assert module(torch.ones(shape, dtype=index)).shape == (*shape, 64)


@every_scheme
def test_casting_changes_the_output_and_not_the_scales(spec):
    for dtype in (torch.bfloat16, torch.float16):
        with naming(dtype):
            module = make_embedding(spec)
            scale, expected = module.neutral()["scale"].clone(), module(IDS).to(dtype)
            model = nn.Sequential(module).to(dtype)
            after = module.neutral()["scale"]
            assert after.dtype == scale.dtype and torch.equal(after, scale)
            assert model(IDS).dtype == dtype and torch.equal(model(IDS), expected)
            assert model.float()(IDS).dtype == torch.float32


@every_scheme
def test_copies_give_identical_rows(spec):
    for way, duplicate in COPIES.items():
        with naming(way):
            module = make_embedding(spec, padding_idx=3, dtype=torch.bfloat16)
            twin = duplicate(module)
            assert torch.equal(twin(IDS), module(IDS)) and twin.padding_idx == 3 and twin(IDS).dtype == torch.bfloat16


@every_scheme
def test_loading_a_state_dict_gives_identical_rows(spec):
    source, target = make_embedding(spec), make_embedding(spec, seed=4)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(IDS), source(IDS))


@every_scheme
def test_state_dicts_hold_codes_and_scales_and_nothing_else(spec):
    module = make_embedding(spec)
    facts = {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in stored_state(module, module.state_dict()).items()
    }
    assert facts == module.saved_tensors()
    assert torch.equal(stored_state(module, module.state_dict())["weight"], make_operands(spec).weight["codes"])


@pytest.mark.parametrize("index", [20, -1])
def test_an_index_past_the_table_is_an_error(index):
    with pytest.raises(IndexError):
        make_embedding(SPECS["w8a16"])(torch.tensor([index]))


def test_it_is_an_embedding_to_other_libraries():
    module = make_embedding(SPECS["w8a16"], padding_idx=2)
    assert isinstance(module, nn.Embedding)
    assert (module.num_embeddings, module.embedding_dim, module.padding_idx) == (20, 64, 2)
    assert repr(module) == "QuantizedEmbedding(20, 64, scheme=W8A16 rot64)"
