"""The kernel table of this machine: measured once, then read from the cache."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from hf_quant.config.plan import Plan
from hf_quant.config.presets import PRESETS
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.cost.measure import QUICK, THOROUGH, measure_table
from hf_quant.planner.cost.overhead import measure_overhead
from hf_quant.planner.cost.quiet import Quiet
from hf_quant.planner.cost.table import KINDS, KernelTable, Overhead
from hf_quant.planner.cost.table_file import cached_file, cached_table, this_machine, write_table
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.workflows.quantize import quantize

logger = logging.getLogger(__name__)

_VOCABULARY = 128
_HEAD_WIDTH = 64


def kernel_table(quick: bool = False, refresh: bool = False, progress: bool = True) -> KernelTable:
    """The kernel table of this machine, from the cache if it was measured here with these versions, else measured.

    Args:
        quick: Measure few shapes and rounds: under a minute instead of several. Any table in the cache serves as well.
        refresh: Measure again, even if a table is in the cache.
        progress: Show a progress bar.

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
    if table.disturbed > 0.2:
        logger.warning(
            "others that share this machine slowed %.0f %% of what was timed: times are doubtful, measure again",
            100 * table.disturbed,
        )
    write_table(table, cached_file(this_machine(), quick))
    return table


def measure_overheads(quiet: Quiet | None = None) -> tuple[Overhead, ...]:
    """Measure what blocks of three families take besides linears: float, quantized to INT8, and to several schemes."""
    return tuple(
        measure_overhead(
            partial(_built, _MODELS[family], kind),
            family,
            kind,
            decodes=family != "bert",
            sharing=partial(_built, _sharing_llama, kind) if family == "llama" else None,
            quiet=quiet,
        )
        for family in _MODELS
        for kind in KINDS
    )


def _built(make: Callable[[int, int], nn.Module], kind: str, hidden: int, layers: int) -> nn.Module:
    state = torch.get_rng_state()
    with torch.inference_mode(False):
        built = make(hidden, layers).eval()
        if kind == "fused":
            built = quantize(built, "int8", progress=False)
        elif kind == "mixed":
            # No two neighbours alike, so that nothing is computed together.
            names = Inventory.of(built).linears()
            schemes = itertools.cycle(PRESETS[name].linear for name in ("int8", "int4", "w8a16"))
            built = quantize(built, HfQuantConfig(plan=Plan(dict(zip(names, schemes, strict=False)))), progress=False)
    torch.set_rng_state(state)
    return built


def _sharing_llama(hidden: int, layers: int) -> nn.Module:
    return _llama(hidden, layers, sharing=3)


def _llama(hidden: int, layers: int, sharing: int = 1) -> nn.Module:
    heads = hidden // _HEAD_WIDTH
    return LlamaModel(
        LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // sharing,
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
            n_positions=4096,
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
