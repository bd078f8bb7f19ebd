"""Traces of a block: which outputs reach which linears, read off real runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from hf_quant.calibration.blocks import unwritten
from hf_quant.modules.experts import OpenedExperts, expert_layers, rerouted
from hf_quant.modules.filters import Filters

_LOWEST_CODE, _HIGHEST_CODE = 1.25, 5.0
"""Factors that mark channels in a probe: 1 is none of them, so an input that the channels do not reach has no code."""


def is_linear(module: nn.Module) -> bool:
    """Whether `module` multiplies the last dimension of its input with a matrix, ``weight``."""
    return isinstance(module, nn.Linear | Conv1D)


def is_router(module: nn.Module) -> bool:
    """Whether `module`, no linear, may multiply its input with a matrix, ``weight``, as routers of experts do."""
    weight = module._parameters.get("weight")
    is_matrix = weight is not None and weight.ndim == 2 and not any(True for _ in module.children())
    return is_matrix and not is_linear(module) and not isinstance(module, nn.Embedding | Filters)


def is_norm(module: nn.Module) -> bool:
    """Whether `module` may end in a product with one ``weight`` per channel: a leaf with such a vector."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim == 1 and not any(True for _ in module.children())


def out_features(module: nn.Module) -> int:
    """Output width of a linear."""
    return int(module.nf if isinstance(module, Conv1D) else module.out_features)  # type: ignore[arg-type]


@dataclass
class Run:
    """Tensors that one run of a block produced.

    Args:
        output: Tensors that the block returned, float32.
        inputs: Inputs of each linear, router and module of opened experts, by its name, in the order of first calls;
            without those of linears within experts.
        norm_outputs: Outputs of each norm, by its name, in the order of first calls.
    """

    output: list[Tensor] = field(default_factory=list)
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    norm_outputs: dict[str, list[Tensor]] = field(default_factory=dict)


class Tracer:
    """Runs a block in float32, with some of its parameters or outputs replaced; the block itself is never changed.

    Experts get every token, beside those that the router sends to them: so each counts in what is found, and does the
    router.

    Args:
        block: A module that gives the same output for the same inputs.
        args: Positional arguments of each run.
        kwargs: Keyword arguments of each run.
    """

    def __init__(self, block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]):
        self.block = block
        self.args, self.kwargs = _float32(tuple(args)), _float32(dict(kwargs))
        self.parameters: dict[str, Tensor] = {name: _float32(each.detach()) for name, each in block.named_parameters()}
        self.buffers: dict[str, Tensor] = {name: _float32(each) for name, each in block.named_buffers()}

    @torch.no_grad()
    def run(self, parameters: Mapping[str, Tensor] | None = None, constant: tuple[str, Tensor] | None = None) -> Run:
        """Run the block once; returns its outputs, and what its linears and norms saw.

        Args:
            parameters: Tensors to take in the place of the block's own parameters, by name.
            constant: Name of a module, and the row ``[channels]`` that it gives for every token instead of its output.
        """
        run = Run()
        with self._recording(run, constant):
            values = {**self.parameters, **self.buffers, **(parameters or {})}
            output = functional_call(self.block, values, *unwritten(self.args, self.kwargs))
        run.output = [each.detach() for each in _tensors(output)]
        return run

    @contextmanager
    def _recording(self, run: Run, constant: tuple[str, Tensor] | None) -> Iterator[None]:
        handles = []
        within = {id(module) for _, experts in expert_layers(self.block) for module in experts.modules()}
        for name, module in self.block.named_modules():
            if isinstance(module, OpenedExperts) or (
                id(module) not in within and (is_linear(module) or is_router(module))
            ):

                def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                    run.inputs.setdefault(name, []).extend(_tensors((args, kwargs))[:1])

                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            elif is_norm(module) and id(module) not in within:

                def leave(norm: nn.Module, _: Any, output: Any, name: str = name) -> None:
                    if isinstance(output, Tensor) and output.shape[-1:] == norm.weight.shape:
                        run.norm_outputs.setdefault(name, []).append(output)

                handles.append(module.register_forward_hook(leave))
        if constant is not None:
            row = constant[1]

            def exchange(_: nn.Module, __: Any, output: Any) -> Any:
                # Of its own memory, since an activation may work in place. A router may give several tensors.
                return row.to(output).expand_as(output).clone() if isinstance(output, Tensor) else output

            handles.append(self.block.get_submodule(constant[0]).register_forward_hook(exchange))
        try:
            with rerouted(self.block, _also_to_all):
                yield
        finally:
            for handle in handles:
                handle.remove()


def norm_consumers(run: Run) -> dict[str, tuple[str, ...]]:
    """What reads a norm's output, of `Run.inputs`, by the name of the norm; what else reads it is not known."""
    found = {}
    for norm, outputs in run.norm_outputs.items():
        # `run` keeps the tensors, so that no storage is another's that has gone.
        storages = {output.untyped_storage().data_ptr() for output in outputs}
        consumers = tuple(
            name
            for name, inputs in run.inputs.items()
            if all(input.untyped_storage().data_ptr() in storages for input in inputs)
            and all(input.shape[-1] == outputs[0].shape[-1] for input in inputs)
        )
        if consumers:
            found[norm] = consumers
    return found


def channel_maps(tracer: Tracer, producer: str, run: Run) -> Iterator[dict[str, tuple[int, ...]]]:
    """Linears whose input follows the output of the linear `producer` channel by channel.

    The producer's output is replaced by one positive row for all tokens, then by the same row with each channel times a
    code of its own. Attention weights do not matter where all tokens have the same values, and a gate multiplies both
    rows alike: inputs that are linear in a channel grow by exactly its code, which says which channel it is.

    Yields:
        Name of a consumer to the channel of each of its inputs; first as found when all channels carry codes,
        then with those of one part of them only, as of a gate and its factor that one linear computes.
    """
    names = list(run.inputs)
    later = names[names.index(producer) + 1 :]
    if not later:
        return
    channels = out_features(tracer.block.get_submodule(producer))
    generator = torch.Generator().manual_seed(0)
    row = torch.rand(channels, generator=generator) + 0.5
    before = tracer.run(constant=(producer, row))
    for first, last in _parts(channels, {run.inputs[name][0].shape[-1] for name in later}):
        count = last - first
        codes = torch.logspace(0, 1, count, base=_HIGHEST_CODE / _LOWEST_CODE) * _LOWEST_CODE
        codes = codes[torch.randperm(count, generator=generator)]
        coded = row.clone()
        coded[first:last] *= codes
        after = tracer.run(constant=(producer, coded))
        found = {}
        for name in later:
            origins = _origins(before.inputs.get(name, []), after.inputs.get(name, []), codes)
            if origins is not None:
                found[name] = tuple(first + index for index in origins.tolist())
        if found:
            yield found


def _parts(channels: int, widths: set[int]) -> Iterator[tuple[int, int]]:
    yield 0, channels
    for width in sorted(widths):
        if channels > width and channels % width == 0:
            yield from ((first, first + width) for first in range(0, channels, width))


def _origins(before: Sequence[Tensor], after: Sequence[Tensor], codes: Tensor) -> Tensor | None:
    if not before or not after:
        return None
    first = torch.cat([each.flatten(0, -2) for each in before])
    second = torch.cat([each.flatten(0, -2) for each in after])
    if first.shape != second.shape or not bool(second.isfinite().all()):
        return None
    size = first.abs().sum(0)
    alive = size > 0
    ratio = (second.abs().sum(0) / size).where(alive, 1.0).log()
    order = codes.to(ratio).log().sort()
    right = torch.searchsorted(order.values, ratio).clamp(1 if len(codes) > 1 else 0, len(codes) - 1)
    left = (right - 1).clamp(0)
    is_left = ratio - order.values[left] < order.values[right] - ratio
    nearest = order.indices[torch.where(is_left, left, right)]
    codes = codes.to(ratio)
    spacing = torch.tensor(_HIGHEST_CODE / _LOWEST_CODE).log().item() / max(len(codes) - 1, 1)
    fits = (ratio - codes[nearest].log()).abs() < min(spacing / 4, 1e-3)
    # A gate may have closed a channel for all tokens: its place is known only if all others are in their own.
    places = torch.arange(first.shape[-1], device=nearest.device)
    if not bool(alive.all()) and len(codes) == len(places) and bool((nearest == places)[alive].all()):
        nearest, fits = places, fits | ~alive
    follows = (second - first * codes[nearest]).abs() <= 1e-3 * second.abs().amax(0)
    return nearest if bool(fits.all()) and bool(alive.any()) and bool(follows.all()) else None


def _also_to_all(experts: OpenedExperts, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    every = torch.arange(experts.experts, device=index.device).expand(len(index), -1)
    # As large, all together, as one of them.
    shares = weights.new_full(every.shape, experts.experts**-0.5)
    return torch.cat([index, every.to(index)], -1), torch.cat([weights, shares], -1)


def _tensors(value: Any) -> list[Tensor]:
    """Every float tensor in a nest of tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple | list) else []


def _float32(value: Any) -> Any:
    """`value` with its float tensors, in tuples, lists and dicts too, in float32."""
    if isinstance(value, Tensor):
        return value.to(torch.float32) if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(_float32(part) for part in value)
    return {key: _float32(part) for key, part in value.items()} if type(value) is dict else value
