"""Pairs of modules between which the scale of a channel can move without changing what their block computes.

Nothing here knows a model's name. Candidates are read off runs of the block, and each is proved by scaling: channels of
the producer by random factors, inputs of its consumers by their reciprocals. Whatever else the producer feeds shows,
since nothing compensates there: a norm whose output is also the residual, as after the attention of BERT, is no
producer. Neither is a linear before an activation, unless that is a ReLU, which positive factors pass.

Opened experts are looked into one by one. What feeds a layer of them feeds the router, too, and the first linears of
each: all are consumers of one pair, or there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_quant.calibration.tracing import Run, Tracer, channel_maps, is_linear, norm_consumers, out_features
from hf_quant.errors import CalibrationError
from hf_quant.modules.experts import expert_layers

_SAME = 1e-4
"""Relative change of a block's output that is still rounding, in float32."""

_COMPENSATED = 1e-3
"""Share of the change that scaling the producer alone makes, which may be left once its consumers are scaled, too."""

_EXPERT_SCALES = (1.0, 100.0)
"""Factors of the rows on which an expert is run: large ones show where it clamps."""

_OFFSETS = (0.0, 1.0)
"""What norms add to their weight before they multiply with it."""


@dataclass(frozen=True)
class Pair:
    """A norm or linear and the linears that read its channels, so that a scale can move between them.

    Each input of the consumers is a channel of the producer, times something that does not depend on that channel.

    Args:
        producer: Name of a norm or linear within the block.
        consumers: Names of linears and routers; all have the same input, of which experts get the rows of their tokens.
        expand: Channel of the producer that each input of the consumers comes from. Several inputs may share one, as
            query heads share a key-value head; channels may feed none, as queries and keys of a fused linear.
        channels: Output width of the producer.
        offset: Number that a norm adds to its weight before it multiplies with it.
    """

    producer: str
    consumers: tuple[str, ...]
    expand: tuple[int, ...]
    channels: int
    offset: float = 0.0

    def spread(self, per_channel: Tensor) -> Tensor:
        """Numbers of the producer's channels, ``[channels]``, gathered for the consumers' inputs, ``[width]``."""
        return per_channel[self._index(per_channel)]

    def collect(self, per_input: Tensor, reduce: str) -> Tensor:
        """Numbers of inputs, ``[width]``, reduced to those of channels, ``[channels]``; 0 for channels that feed none.

        Args:
            per_input: Numbers of the consumers' inputs, floats ``[width]``.
            reduce: How inputs that share a channel are reduced: ``"amax"`` or ``"mean"``.
        """
        empty = per_input.new_zeros(self.channels)
        return empty.scatter_reduce(0, self._index(per_input), per_input, reduce, include_self=False)

    def within(self, prefix: str) -> Pair:
        """The same pair of a module whose own name is `prefix`, as a pair of what that module is in."""
        consumers = tuple(f"{prefix}.{consumer}" for consumer in self.consumers)
        return replace(self, producer=f"{prefix}.{self.producer}", consumers=consumers)

    def _index(self, like: Tensor) -> Tensor:
        return torch.tensor(self.expand, device=like.device)


def weight_matrix(module: nn.Module, weight: Tensor | None = None) -> Tensor:
    """The weight of a linear or ``Conv1D``, or `weight` in its place, as a view ``[out, in]``."""
    weight = module.weight if weight is None else weight  # type: ignore[assignment]
    assert weight is not None
    return weight.T if isinstance(module, Conv1D) else weight


def structure_of(block: nn.Module) -> tuple[tuple[str, type, tuple[int, ...]], ...]:
    """Modules and parameter shapes of a block; blocks that agree in them most likely have the same pairs."""
    modules = ((name, type(module), ()) for name, module in block.named_modules())
    return (*modules, *((name, nn.Parameter, tuple(each.shape)) for name, each in block.named_parameters()))


def find_pairs(
    block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], likely: Sequence[Pair] | None = None
) -> list[Pair]:
    """The pairs of a transformer block, in the order in which their producers are called.

    The block is run some five times per linear, in float32; its parameters are not touched.

    Args:
        block: Transformer block in eval mode.
        args: Positional arguments of a real call of the block, without a key-value cache; a few sequences suffice.
        kwargs: Keyword arguments of that call.
        likely: Pairs of a block of the same structure. Where every one of them is proved in this block, too, they
            are the result, for two runs each; otherwise the block is searched as if there were none.

    Raises:
        CalibrationError: The block gives NaN, or another output each time.
    """
    tracer = Tracer(block, args, kwargs)
    run, again = tracer.run(), tracer.run()
    if not _change(again, run) <= _SAME:
        raise CalibrationError(
            f"{type(block).__name__} gives NaN or another output each time it is run: "
            "call eval() on the model, and capture its inputs with use_cache=False"
        )
    inner, readers = _of_experts(block, run, likely)
    known = None if likely is None else [pair for pair in likely if not _is_within(pair, readers)]
    outer = known if known is not None and all(_is_proved(tracer, pair, run) for pair in known) else None
    outer = _searched(tracer, run, readers) if outer is None else outer
    order = {name: at for at, name in enumerate(name for found in run.inputs for name in readers.get(found, (found,)))}
    return [*sorted(outer, key=lambda pair: order[pair.consumers[0]]), *inner]


def _searched(tracer: Tracer, run: Run, readers: Mapping[str, tuple[str, ...]]) -> list[Pair]:
    """Pairs of a block, without those within experts."""

    def expanded(consumers: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for consumer in consumers for name in readers.get(consumer, (consumer,)))

    pairs: list[Pair] = []
    for norm, consumers in norm_consumers(run).items():
        channels = run.norm_outputs[norm][0].shape[-1]
        names = expanded(consumers)
        candidates = (Pair(norm, names, tuple(range(channels)), channels, offset) for offset in _OFFSETS)
        pairs.extend(_first_proved(tracer, candidates, run))
    for producer in run.inputs:
        module = tracer.block.get_submodule(producer)
        if not is_linear(module):
            continue
        channels = out_features(module)
        for found in channel_maps(tracer, producer, run):
            proved = [
                pair
                for expand in dict.fromkeys(found.values())
                for consumers in [expanded(name for name in found if found[name] == expand)]
                for pair in _first_proved(tracer, [Pair(producer, consumers, expand, channels)], run)
            ]
            if proved:
                pairs.extend(proved)
                break
    return pairs


def _of_experts(
    block: nn.Module, run: Run, likely: Sequence[Pair] | None
) -> tuple[list[Pair], dict[str, tuple[str, ...]]]:
    """Pairs within each of the block's experts, and the linears that read what comes in, by the name of the layer."""
    pairs: list[Pair] = []
    readers: dict[str, tuple[str, ...]] = {}
    for name, experts in expert_layers(block):
        if name not in run.inputs:
            continue
        rows = torch.cat([each.flatten(0, -2) for each in run.inputs[name]])
        rows = torch.cat([rows * scale for scale in _EXPERT_SCALES])
        found: list[str] = []
        first = None if likely is None else _those_of(likely, f"{name}.0")
        for expert in range(experts.experts):
            prefix = f"{name}.{expert}"
            tracer = Tracer(experts.get_submodule(str(expert)), (rows,), {})
            alone = tracer.run()
            found += [
                f"{prefix}.{linear}"
                for linear, inputs in alone.inputs.items()
                if all(input.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr() for input in inputs)
            ]
            if first is None:
                first = _searched(tracer, alone, {})
            # Experts compute alike: what the first does not have is not searched for in each.
            is_alike = all(_is_proved(tracer, pair, alone) for pair in first)
            pairs += [pair.within(prefix) for pair in (first if is_alike else _searched(tracer, alone, {}))]
        readers[name] = tuple(found)
    return pairs, readers


def _is_within(pair: Pair, layers: Collection[str]) -> bool:
    return any(pair.producer.startswith(f"{layer}.") for layer in layers)


def _those_of(pairs: Sequence[Pair], expert: str) -> list[Pair]:
    """Pairs within one expert, under their names in it."""
    inside = [pair for pair in pairs if pair.producer.startswith(f"{expert}.")]
    return [
        replace(
            pair,
            producer=pair.producer.removeprefix(f"{expert}."),
            consumers=tuple(name.removeprefix(f"{expert}.") for name in pair.consumers),
        )
        for pair in inside
    ]


@torch.no_grad()
def apply_scales(block: nn.Module, pair: Pair, scales: Tensor, inverse: bool = False) -> None:
    """Divide a producer's channels and multiply its consumers' inputs, in place; dtypes stay.

    Args:
        block: Block that holds the pair; its parameters are changed.
        pair: Pair of this block or of one of the same structure, from `find_pairs`.
        scales: Positive floats ``[pair.channels]``; those of channels that feed no consumer are not used.
        inverse: Whether to multiply the producer and divide the consumers, which undoes the same call without it.

    Raises:
        CalibrationError: A scale is not a positive number, or there are too many or few of them.
    """
    if scales.shape != (pair.channels,):
        raise CalibrationError(f"{pair.producer} has {pair.channels} channels, but scales are {list(scales.shape)}")
    used = pair.spread(scales)
    if not bool((used.isfinite() & (used > 0)).all()):
        raise CalibrationError(f"scales for {pair.producer} must be positive numbers: are the statistics usable?")
    _scale(dict(block.named_parameters()), block, pair, scales.reciprocal() if inverse else scales)


def _names(block: nn.Module, pair: Pair) -> list[str]:
    """Names of the parameters that scaling changes, the producer's first."""
    producer = block.get_submodule(pair.producer)
    own = [name for name in ("weight", "bias") if getattr(producer, name, None) is not None]
    return [f"{pair.producer}.{name}" for name in own] + [f"{consumer}.weight" for consumer in pair.consumers]


def _scale(tensors: Mapping[str, Tensor], block: nn.Module, pair: Pair, scales: Tensor) -> None:
    producer = block.get_submodule(pair.producer)
    feeding = torch.zeros(pair.channels, dtype=torch.bool)
    feeding[list(pair.expand)] = True
    weight = tensors[f"{pair.producer}.weight"]
    scales = scales.to(weight.device, torch.float32).where(feeding.to(weight.device), 1.0)
    if is_linear(producer):
        weight_matrix(producer, weight).div_(scales[:, None])
    else:
        weight.copy_((weight.to(torch.float32) + pair.offset) / scales - pair.offset)
    if getattr(producer, "bias", None) is not None:
        tensors[f"{pair.producer}.bias"].div_(scales)
    for consumer in pair.consumers:
        matrix = weight_matrix(block.get_submodule(consumer), tensors[f"{consumer}.weight"])
        matrix.mul_(pair.spread(scales).to(matrix.device))


def _first_proved(tracer: Tracer, candidates: Sequence[Pair] | Iterator[Pair], run: Run) -> list[Pair]:
    """The first candidate, in a list, that leaves the block's output as it was in `run`; or an empty list."""
    return next(([pair] for pair in candidates if _is_proved(tracer, pair, run)), [])


def _is_proved(tracer: Tracer, pair: Pair, run: Run) -> bool:
    names = _names(tracer.block, pair)
    if not set(names) <= tracer.parameters.keys():
        # Two modules share a parameter, or compute it: it cannot be scaled for one of them.
        return False
    changed = {name: tracer.parameters[name].clone() for name in names}
    generator = torch.Generator().manual_seed(0)
    _scale(changed, tracer.block, pair, torch.rand(pair.channels, generator=generator).mul(4).sub(2).exp2())
    alone = {name: value for name, value in changed.items() if name.startswith(f"{pair.producer}.")}
    left = _change(tracer.run(changed), run)
    # A block may hardly notice a wrong scale, its residual being so large: the change is held against that, too.
    made = _change(tracer.run(alone), run)
    return made > 0 and left <= min(_SAME, _COMPENSATED * made)


def _change(run: Run, reference: Run) -> float:
    """Relative change of a block's output, in norm; NaN where it holds any."""
    pairs = list(zip(run.output, reference.output, strict=True))
    difference = sum((found - expected).square().sum().item() for found, expected in pairs)
    size = sum(expected.square().sum().item() for _, expected in pairs)
    return float((difference / size) ** 0.5) if size else float("nan")
