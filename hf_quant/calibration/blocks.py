"""The blocks of a model, one after the other, and what the first of them is called with."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from hf_quant.errors import CalibrationError, UnsupportedModel

_HIDDEN = "hidden_states"


@dataclass
class BlockInput:
    """One batch on its way through the blocks.

    Args:
        hidden: Hidden states ``[batch, tokens, width]``; replaced by the output of each block.
        arguments: Other positional and keyword arguments, of each block or once for all blocks.
        keep: Tokens that are not padding, bool ``[batch, tokens]``; None where there is no padding.
        in_tuples: Number of outputs of a block that returns hidden states as the first of a tuple; 0 where alone.
        reference: Hidden states of the float model, of the shape of `hidden`; None where nothing asks for them.
    """

    hidden: Tensor
    arguments: Sequence[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    keep: Tensor | None = None
    in_tuples: int = 0
    reference: Tensor | None = None

    def call(self, index: int, hidden: Tensor | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of one block, hidden states first: `hidden`, or those of the entry."""
        args, kwargs = unwritten(*self.arguments[index if len(self.arguments) > 1 else 0])
        return (self.hidden if hidden is None else hidden, *args), kwargs


def unwritten(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a call with copies of caches of keys and values, which a call writes to."""

    def own(value: Any) -> Any:
        return copy.deepcopy(value) if isinstance(value, Cache) else value

    return tuple(map(own, args)), {name: own(value) for name, value in kwargs.items()}


def find_blocks(model: nn.Module) -> str:
    """Name of the list of blocks: of one class each, and with more weights than any other such list.

    Raises:
        UnsupportedModel: The model has no such list.
    """
    sizes = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    }
    if not sizes:
        raise UnsupportedModel(
            f"{type(model).__name__} has no list of equal blocks, which calibration goes through one by one: "
            "quantize it without calibration"
        )
    return max(sizes, key=lambda name: sizes[name])


@torch.no_grad()
def first_inputs(
    model: nn.Module, blocks: nn.ModuleList, batches: Iterable[Mapping[str, Tensor]]
) -> Iterator[BlockInput]:
    """Inputs of the first block, for each batch.

    The whole model is run on one sequence only. The blocks after the first are run for every batch just where they are
    called with other arguments than the first, such as masks of their own.

    Raises:
        CalibrationError: The model does not call its blocks in order, once each, with ``[batch, tokens, width]`` first.
    """
    differ, in_tuples = None, 0
    for batch in batches:
        if differ is None:
            differ, in_tuples = _probe(model, blocks, first_of(batch))
        calls = _calls(model, blocks, batch, len(blocks) if differ else 1)
        keep = tokens_that_count(batch)
        if keep is not None and keep.shape != calls[0].hidden.shape[:2]:
            keep = None  # a mask of what the model reads, such as samples of sound, which are no tokens
        yield BlockInput(calls[0].hidden, [(call.args, call.kwargs) for call in calls], keep, in_tuples)


def first_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first row of a batch; the whole one where its tensors do not have a row each for every sample."""
    if len({len(tensor) for tensor in batch.values()}) > 1:
        return dict(batch)
    return {name: tensor[:1] for name, tensor in batch.items()}


def tokens_that_count(batch: Mapping[str, Tensor]) -> Tensor | None:
    """The attention mask of a batch as bool ``[batch, tokens]``; None where there is no padding."""
    mask = batch.get("attention_mask")
    return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.all()) else None


@torch.no_grad()
def run_block(block: nn.Module, index: int, entry: BlockInput, hidden: Tensor | None = None) -> Tensor:
    """The block's output ``[batch, tokens, width]``, of another input than the entry's where `hidden` is given.

    Raises:
        CalibrationError: The block needs arguments that it was not called with before, or gives something else.
    """
    args, kwargs = entry.call(index, hidden)
    try:
        output = hidden_of(block(*args, **kwargs))
    except TypeError as error:
        raise CalibrationError(
            f"block {index} ({type(block).__name__}) cannot be called alone with what the model calls it with: {error}"
        ) from error
    if output.shape != entry.hidden.shape:
        raise CalibrationError(f"block {index} ({type(block).__name__}) changes the shape of its input")
    return output


def hidden_of(output: Any) -> Tensor:
    """The hidden states among what a block returns.

    Raises:
        CalibrationError: The first of the outputs is no tensor.
    """
    found = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(found, Tensor):
        raise CalibrationError(
            f"a block returns {type(found).__name__} where hidden states are expected: keep it float"
        )
    return found


def tuple_length(output: Any) -> int:
    """Number of outputs in a tuple; 0 for an output that is alone."""
    return len(output) if isinstance(output, tuple | list) else 0


@contextmanager
def passed_over(blocks: nn.ModuleList, in_tuples: int) -> Iterator[list[Tensor]]:
    """Context in which blocks compute nothing and return the one tensor in the list that it yields.

    Args:
        blocks: Blocks of the model; their `forward` is replaced until the context ends.
        in_tuples: Number of outputs of a block that returns hidden states as the first of a tuple, of which the others
            are None then; 0 where hidden states are returned alone.
    """
    result: list[Tensor] = []
    # Accelerate puts a forward of its own there.
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = lambda *args, **kwargs: (result[0], *[None] * (in_tuples - 1)) if in_tuples else result[0]
        yield result
    finally:
        for block, forward in zip(blocks, before, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward


@dataclass(frozen=True)
class _Call:
    block: nn.Module
    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Stop(Exception):
    """No error: it ends a forward pass early."""


def _kinds_of_layers(model: nn.Module) -> int:
    # Masks of full and of sliding attention are alike, or both missing, as long as sequences are short.
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return len(set(getattr(config, "layer_types", None) or ()))


def _probe(model: nn.Module, blocks: nn.ModuleList, batch: Mapping[str, Tensor]) -> tuple[bool, int]:
    """Whether blocks are called with other arguments than the first, and the length of the tuples that they return."""
    outputs: list[Any] = []
    handle = blocks[0].register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        calls = _calls(model, blocks, batch, None)
    finally:
        handle.remove()
    if len(calls) != len(blocks) or any(call.block is not block for call, block in zip(calls, blocks, strict=True)):
        raise CalibrationError(
            f"{type(model).__name__} has {len(blocks)} blocks and calls {len(calls)}, or in another order: only blocks "
            "that are called once each, in order, can be calibrated (layers that are skipped at random: call eval())"
        )
    if len({call.hidden.shape for call in calls}) > 1:
        raise CalibrationError(f"blocks of {type(model).__name__} change the shape of their input")
    differ = any(not _same((call.args, call.kwargs), (calls[0].args, calls[0].kwargs)) for call in calls)
    return differ or _kinds_of_layers(model) > 1, tuple_length(outputs[0])


def _calls(model: nn.Module, blocks: nn.ModuleList, batch: Mapping[str, Tensor], most: int | None) -> list[_Call]:
    """What blocks are called with, until `most` of them were; None: until the model is done."""
    calls: list[_Call] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        others = {name: value for name, value in kwargs.items() if args or name != _HIDDEN}
        hidden = args[0] if args else kwargs.get(_HIDDEN)
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            raise CalibrationError(f"{type(module).__name__} is not called with hidden states [batch, tokens, width]")
        calls.append(_Call(module, hidden, *unwritten(args[1:], others)))
        if len(calls) == most:
            raise _Stop

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    # The stacks of an encoder-decoder may have configs of their own.
    configs: dict[int, Any] = {id(found): found for each in model.modules() if (found := getattr(each, "config", None))}
    caching = [config for config in configs.values() if getattr(config, "use_cache", None)]
    for config in caching:
        config.use_cache = False
    try:
        model(**batch)
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
        for config in caching:
            config.use_cache = True
    return calls


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and not isinstance(one, Tensor) and bool(one == other)
