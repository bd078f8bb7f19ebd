"""Milliseconds of a whole model, as a sum over what it calls."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.config.plan import Plan, fit
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError, PlanError
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.conv1d import QuantizedConv1D
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.stored import StoredModule
from hf_quant.opening.open import opened, opens_model
from hf_quant.planner.cost.interpolate import Interpolation
from hf_quant.planner.cost.kv_cache import key_value_heads, kv_cache_bytes
from hf_quant.planner.cost.routing import Routing, routing_of, routings
from hf_quant.planner.cost.samples import reads_tokens, rows_of_samples
from hf_quant.planner.cost.table import KernelTable, Overhead
from hf_quant.registry import unknown

_BLOCK = re.compile(r".*?\.\d+\.")


@dataclass(frozen=True)
class LinearFacts:
    """One linear of a model: its shape, its scheme if it is quantized, and its routing if it is an expert's.

    `sample` is the number of rows that it gets for one image or sound; None in models that read tokens.
    """

    name: str
    inputs: int
    outputs: int
    is_head: bool
    scheme: Scheme | None
    routing: Routing | None = None
    sample: int | None = None

    def milliseconds(self, interpolation: Interpolation, scheme: Scheme | None, step: Pass) -> float:
        """Mean milliseconds in a pass under a scheme, from the times of kernels: an expert may not be called at all."""
        taken = interpolation.milliseconds(scheme, self.inputs, self.outputs, self.rows(step))
        return taken if self.routing is None else taken * self.routing.calls(step.rows) / self.routing.experts

    def rows(self, step: Pass) -> int:
        """Rows given to the linear in a pass where it is called."""
        if self.routing is not None:
            return self.routing.rows_of_call(step.rows)
        if self.sample is not None:
            return self.sample * step.batch
        return step.head_rows if self.is_head else step.rows


@dataclass(frozen=True)
class Pass:
    """Shape of a forward pass whose time is measured or predicted.

    Args:
        tokens: New tokens of each sequence: 1 while decoding, the prompt's length at its start.
        batch: Number of sequences.
        context: Tokens of each sequence that are already in the cache of keys and values.
        logits: Positions of each sequence that heads compute; None for all of `tokens`.

    Raises:
        ConfigError: A number is not a positive integer; `context` may be 0.
    """

    tokens: int = 1
    batch: int = 1
    context: int = 0
    logits: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("batch", 1), ("context", 0), ("logits", 1)):
            value = getattr(self, name)
            if name == "logits" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be an integer of at least {least}, not {value!r}")

    @property
    def rows(self) -> int:
        """Rows given to each linear (tokens x batch)."""
        return self.tokens * self.batch

    @property
    def head_rows(self) -> int:
        """Rows given to each head (computed positions x batch)."""
        return self.batch * (self.tokens if self.logits is None else min(self.logits, self.tokens))


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass, by what takes them.

    Args:
        linears: Milliseconds of the linears in the blocks.
        heads: Milliseconds of the heads, the linears that compute outputs.
        attention: Milliseconds of the products of queries, keys and values, and of holding and reading the cache.
        overhead: Milliseconds of norms, activation functions and calls, less what fusing blocks saves.
    """

    linears: float
    heads: float
    attention: float
    overhead: float

    @property
    def total(self) -> float:
        """Milliseconds of the whole pass."""
        return self.linears + self.heads + self.attention + self.overhead


class LatencyCosts:
    """Milliseconds of each choice for each module of a model, on the machine that a kernel table was measured on.

    Every linear is taken to be called once in a pass. Experts count by how many of them get a token: at one token as
    many as it goes to, at many tokens all, each with its part of the tokens. Routing itself counts as nothing. A model
    that reads images or sound gets `step.batch` of these, and its time is that of its linears and convolutions.

    Args:
        model: Float model on any device: only shapes are read.
        table: Kernel times, from ``hf-quant hardware --measure``.
        step: The forward pass that times are of.
        refuse_slower: Whether `of` raises for a scheme that makes a module slower than float32.
        inventory: The model's inventory, if it was made already; None: it is made here.
    """

    def __init__(
        self,
        model: Any,
        table: KernelTable,
        step: Pass,
        refuse_slower: bool = False,
        inventory: Inventory | None = None,
    ):
        self.interpolation = Interpolation(table)
        self.step = step
        self.refuse_slower = refuse_slower
        with opened(model):
            inventory = Inventory.of(model) if inventory is None else inventory
            self.linears = {linear.name: linear for linear in linears(model, inventory)}
        self.candidates = inventory.candidates
        self.fixed_milliseconds = max(0.0, sum(_besides_linears(model, table, step, {"mixed": 1.0})))
        """Milliseconds that no choice changes, in a model whose blocks have several schemes."""

    def of(self, name: str, scheme: Scheme | None) -> float:
        """Milliseconds of one module under a scheme; None leaves it float. Looking up embeddings counts as nothing.

        Raises:
            PlanError: There is no such module, or the scheme does not fit it.
            ConfigError: No scheme with the same bits and kind of input was measured, or `refuse_slower` is set and the
                scheme is slower than float32.
        """
        if name not in self.candidates:
            raise PlanError(unknown("module that can be quantized", name, self.candidates))
        if name not in self.linears:
            return 0.0
        fitted = None if scheme is None else fit(scheme, self.candidates[name], name)
        if fitted is not None and self.refuse_slower:
            self.interpolation.require_faster(fitted, *self._call(name))
        return self.linears[name].milliseconds(self.interpolation, fitted, self.step)

    def is_slower_than_float(self, name: str, scheme: Scheme) -> bool:
        """Whether a scheme makes one module slower than float32."""
        if name not in self.linears:
            return False
        return self.interpolation.is_slower_than_float(fit(scheme, self.candidates[name], name), *self._call(name))

    def _call(self, name: str) -> tuple[int, int, int]:
        linear = self.linears[name]
        return linear.inputs, linear.outputs, linear.rows(self.step)


@opens_model
def predict_latency(model: Any, table: KernelTable, step: Pass, plan: Plan | None = None) -> Latency:
    """Predicted milliseconds of a forward pass, of a model as it is or as a plan would quantize it.

    Args:
        model: Float or quantized model; with `plan`, float. The meta device serves.
        table: Kernel times of the machine in question.
        step: The forward pass that is predicted.
        plan: Module names or patterns to schemes; None: the model as it is.

    Raises:
        PlanError: The plan does not fit the model.
        ConfigError: The table has no scheme with the same bits and kind of input as one of the model.
    """
    interpolation = Interpolation(table)
    inventory = Inventory.of(model)
    schemes = None if plan is None else inventory.carried_out(plan.resolve(inventory.candidates).modules, {})
    blocks = heads = 0.0
    chosen: dict[str, Scheme | None] = {}
    for linear in linears(model, inventory):
        scheme = linear.scheme if schemes is None else schemes.get(linear.name)
        if not linear.is_head:
            chosen[linear.name] = scheme
        taken = linear.milliseconds(interpolation, scheme, step)
        blocks, heads = (blocks, heads + taken) if linear.is_head else (blocks + taken, heads)
    return Latency(blocks, heads, *_besides_linears(model, table, step, kinds_of_blocks(chosen)))


@opens_model
def linears(model: nn.Module, inventory: Inventory | None = None) -> list[LinearFacts]:
    """Every linear of a model and how it is quantized; the inventory is made unless it is given."""
    heads = (Inventory.of(model) if inventory is None else inventory).heads
    routed, samples, found = routings(model), rows_of_samples(model), []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            inputs, outputs = module.in_features, module.out_features
        elif isinstance(module, Conv1D):
            inputs, outputs = module.nx, module.nf
        else:
            continue
        scheme = None
        if isinstance(module, QuantizedModule):
            scheme = module.spec.scheme
        elif isinstance(module, StoredModule):
            scheme = module.scheme
        routing = routing_of(name, routed)
        sample = None if samples is None else samples.get(name, 1)
        found.append(LinearFacts(name, int(inputs), int(outputs), name in heads, scheme, routing, sample))
    return found


def takes_logits_to_keep(model: Any) -> bool:
    """Whether a model computes its head for as many positions as it is asked to."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def family_of(model: nn.Module) -> str:
    """The family with the most similar blocks: ``"gpt2"`` by ``Conv1D``, ``"llama"`` by RMS norms, else ``"bert"``."""
    if any(isinstance(module, Conv1D | QuantizedConv1D) for module in model.modules()):
        return "gpt2"
    return "llama" if any("rmsnorm" in type(module).__name__.lower() for module in model.modules()) else "bert"


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()


def attention_operations(tokens: int, context: int, sequences: int, width: int, causal: bool) -> int:
    """Multiplications and additions that attention takes in one block; masked tokens are not counted."""
    seen = context * tokens + (tokens * (tokens + 1) // 2 if causal else tokens**2)
    return 4 * sequences * seen * width


def kinds_of_blocks(schemes: Mapping[str, Scheme | None]) -> dict[str, float]:
    """Kind of block (``"float"``, ``"fused"``, ``"mixed"``) to the share of blocks of that kind.

    Args:
        schemes: Names of linears, which hold the numbers of their blocks, to their schemes; None for float32.
    """
    blocks: dict[str, set[Scheme | None]] = {}
    for name, scheme in schemes.items():
        found = _BLOCK.match(name)
        blocks.setdefault(found[0] if found else "", set()).add(scheme)
    if len(blocks) > 1:
        blocks.pop("", None)  # poolers and the like
    kinds = ["mixed" if len(each) > 1 else "float" if each == {None} else "fused" for each in blocks.values()]
    return {kind: kinds.count(kind) / len(kinds) for kind in dict.fromkeys(kinds)}


def _besides_linears(model: Any, table: KernelTable, step: Pass, kinds: Mapping[str, float]) -> tuple[float, float]:
    """Milliseconds of attention, and of everything else but linears."""
    config, family = _text_config(model), family_of(model)
    if not reads_tokens(model):
        # What attention, norms and poolings of these take is no choice's, and nothing is known of it.
        return 0.0, 0.0
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    operations = attention_operations(step.tokens, step.context, step.batch, width, causal=family != "bert")
    held = kv_cache_bytes(config, step.context, step.batch, _computed_in(model)) if step.context else 0
    read = held * heads // key_value_heads(config)
    more = max(0, (step.rows - 1)) * config.hidden_size
    attention = overhead = 0.0
    for kind, share in kinds.items():
        found = _nearest(table, family, kind) or Overhead(family, kind, 0.0, 0.0, 0.0)
        # Where nothing else is known, products are those of matrices, and keys and values are read once.
        each = found.attention or 1e3 / table.multiply
        cache = held * found.cache_per_byte + read * found.cache_per_read or 1e3 * held / table.read
        attention += share * (config.num_hidden_layers * operations * each + cache)
        block, outside = found.block + found.block_per_number * more, found.model
        if step.context:
            block, outside = block + found.cache_block, outside + found.cache_model
        overhead += share * (outside + config.num_hidden_layers * block)
    return float(attention), float(overhead)


def _computed_in(model: nn.Module) -> torch.dtype:
    """The dtype of hidden states, keys and values: the first float parameter's that has no format of its own."""
    stored = {id(module.weight) for module in model.modules() if isinstance(module, StoredModule)}
    others = (each for each in model.parameters() if each.is_floating_point() and id(each) not in stored)
    return next((each.dtype for each in others), torch.float32)


def _nearest(table: KernelTable, family: str, kind: str) -> Overhead | None:
    like = [overhead for overhead in table.overheads if overhead.kind == kind]
    if not like and kind == "mixed":
        return _nearest(table, family, "fused")
    return next((overhead for overhead in like if overhead.family == family), like[0] if like else None)
