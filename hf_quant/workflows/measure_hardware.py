"""The kernel table of this machine: measured once, then read from the cache."""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from hf_quant.planner.cost.measure import QUICK, THOROUGH, measure_table
from hf_quant.planner.cost.overhead import measure_overhead
from hf_quant.planner.cost.table import KernelTable, Overhead
from hf_quant.planner.cost.table_file import cached_file, cached_table, this_machine, write_table
from hf_quant.workflows.quantize import quantize

logger = logging.getLogger(__name__)

_VOCABULARY = 128
_HEAD_WIDTH = 32


def kernel_table(quick: bool = False, refresh: bool = False, progress: bool = True) -> KernelTable:
    """Times of kernels on this machine, from the cache if they were measured for this machine and these versions.

    Args:
        quick: Few shapes and turns: half a minute instead of several. A thorough table in the cache serves as well.
        refresh: Measure again.
        progress: Show a bar.

    Raises:
        SaveError: The cache directory cannot be written; set ``HF_QUANT_CACHE``.
    """
    if not refresh and (found := cached_table()) is not None:
        return found
    table = measure_table(QUICK if quick else THOROUGH, overheads=measure_overheads, progress=progress)
    if table.busy > 0.2:
        logger.warning(
            "other processes used %.1f cores while kernels were measured: times are doubtful, measure again", table.busy
        )
    write_table(table, cached_file(this_machine(), quick))
    return table


def measure_overheads(multiply: float) -> tuple[Overhead, ...]:
    """What blocks of three families take besides their linears, float and quantized to INT8.

    Args:
        multiply: Operations per second of float32 products.
    """
    return tuple(
        measure_overhead(
            lambda hidden, layers, family=family, quantized=quantized: _built(family, hidden, layers, quantized),  # type: ignore[misc]
            family,
            quantized,
            multiply,
        )
        for family in _MODELS
        for quantized in (False, True)
    )


def _built(family: str, hidden: int, layers: int, quantized: bool) -> nn.Module:
    state = torch.get_rng_state()
    with torch.inference_mode(False):
        model = _MODELS[family](hidden, layers).eval()
        built: nn.Module = quantize(model, "int8", progress=False) if quantized else model
    torch.set_rng_state(state)
    return built


def _llama(hidden: int, layers: int) -> nn.Module:
    heads = hidden // _HEAD_WIDTH
    return LlamaModel(
        LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=2 * hidden,
        )
    )


def _gpt2(hidden: int, layers: int) -> nn.Module:
    return GPT2Model(
        GPT2Config(
            vocab_size=_VOCABULARY,
            n_embd=hidden,
            n_layer=layers,
            n_head=hidden // _HEAD_WIDTH,
            n_positions=128,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def _bert(hidden: int, layers: int) -> nn.Module:
    heads = hidden // _HEAD_WIDTH
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * hidden,
    )
    return BertModel(config, add_pooling_layer=False)


_MODELS = {"llama": _llama, "gpt2": _gpt2, "bert": _bert}
