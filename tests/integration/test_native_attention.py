"""Native attention gives what ``sdpa`` gives, or hands the arguments back."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.integrations import sdpa_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hf_quant.integration import native_attention
from hf_quant.integration.native_attention import attend
from hf_quant.kernels.native import library
from tests.integration.tiny import error

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")


def attention_module(groups=1, is_causal=True):
    module = nn.Module()
    module.is_causal = is_causal
    if groups > 1:
        module.num_key_value_groups = groups
    return module


def tensors(batch=2, heads=4, kv_heads=4, queries=5, keys=5, width=16, dtype=torch.float32):
    return (
        torch.randn(batch, heads, queries, width).to(dtype),
        torch.randn(batch, kv_heads, keys, width).to(dtype),
        torch.randn(batch, kv_heads, keys, width).to(dtype),
    )


@settings(max_examples=150, deadline=None)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    queries=st.integers(1, 40),
    keys=st.integers(1, 120),
    width=st.sampled_from([16, 48, 64]),
    masked=st.sampled_from(["no", "all heads", "each head", "each key", "a blind query"]),
    is_causal=st.sampled_from([None, True, False]),
    scaling=st.sampled_from([None, 0.1, 1]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_it_is_sdpa_at_any_shape(
    batch, kv_heads, groups, queries, keys, width, masked, is_causal, scaling, dtype, seed
):
    torch.manual_seed(seed)
    query, key, value = tensors(batch, kv_heads * groups, kv_heads, queries, keys, width, dtype)
    mask = None
    if masked != "no":
        heads = kv_heads * groups if masked == "each head" else 1
        mask = torch.rand(batch, heads, 1 if masked == "each key" else queries, keys) > 0.5
        if masked == "a blind query":
            mask[0, 0, 0] = False
    module = attention_module(groups)
    found = attend(module, query, key, value, mask, scaling=scaling, is_causal=is_causal)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, is_causal=is_causal)
    assert found is not None and found.shape == expected.shape and found.dtype == expected.dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert (found.float() - expected.float()).abs().max() < tolerance * expected.float().abs().max().clamp(min=1)


def test_a_module_that_is_not_causal_sees_all_keys():
    query, key, value = tensors()
    found = attend(attention_module(is_causal=False), query, key, value, None)
    expected, _ = sdpa_attention_forward(attention_module(is_causal=False), query, key, value, None)
    assert error(found, expected) < 1e-6
    assert error(attend(attention_module(), query, key, value, None), expected) > 0.1


def float_mask():
    return tensors(), torch.zeros(2, 1, 5, 5), {}


def mask_of_three_dimensions():
    return tensors(), torch.ones(4, 5, 5, dtype=torch.bool), {}


def mask_of_a_larger_batch():
    return tensors(batch=1), torch.ones(3, 1, 5, 5, dtype=torch.bool), {}


def one_query_for_a_batch():
    return (tensors(batch=1)[0], *tensors(batch=3)[1:]), None, {}


def narrow_heads():
    return tensors(width=8), None, {}


def narrower_values():
    query, key, value = tensors(width=32)
    return (query, key, value[..., :16].contiguous()), None, {}


def heads_shared_against_the_module():
    return tensors(kv_heads=1), None, {}


def doubles():
    return tensors(dtype=torch.float64), None, {}


def strided():
    return tuple(tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in tensors()), None, {}


def a_gradient():
    query, key, value = tensors()
    return (query.requires_grad_(), key, value), None, {}


def dropout():
    return tensors(), None, {"dropout": 0.5}


def a_scale_in_a_tensor():
    return tensors(), None, {"scaling": torch.tensor(0.3)}


def a_position_bias():
    return tensors(), None, {"position_bias": torch.randn(1, 4, 5, 5)}


def a_soft_cap():
    return tensors(), None, {"softcap": 30.0}


def wanted_attentions():
    return tensors(), None, {"output_attentions": True}


@pytest.mark.parametrize(
    "make",
    [
        float_mask,
        mask_of_three_dimensions,
        mask_of_a_larger_batch,
        one_query_for_a_batch,
        narrow_heads,
        narrower_values,
        heads_shared_against_the_module,
        doubles,
        strided,
        a_gradient,
        dropout,
        a_scale_in_a_tensor,
        a_position_bias,
        a_soft_cap,
        wanted_attentions,
    ],
    ids=lambda make: make.__name__,
)
def test_it_hands_back_what_it_does_not_cover(make):
    (query, key, value), mask, options = make()
    assert attend(attention_module(), query, key, value, mask, **options) is None


def test_what_sdpa_ignores_is_covered():
    query, key, value = tensors()
    options = {"softcap": None, "output_attentions": False, "sliding_window": 2, "use_cache": True}
    assert attend(attention_module(), query, key, value, None, **options) is not None


def test_sdpa_reads_no_arguments_that_native_attention_does_not_know():
    parameters = inspect.signature(sdpa_attention_forward).parameters
    own = inspect.signature(attend).parameters
    further = [name for name in parameters if name not in own]
    assert list(parameters)[:8] == list(own)[:8]
    assert set(further) <= set(native_attention.SDPA_READS)
    source = inspect.getsource(sdpa_attention.sdpa_attention_forward)
    read = [part.split('"')[1] for part in source.split("kwargs.get(")[1:]]
    assert {*read, *further} == set(native_attention.SDPA_READS)
    assert "kwargs.pop" not in source
