"""Statistics of what linears get, gathered while their block runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from hf_quant.calibration.pairs import weight_matrix
from hf_quant.calibration.statistics import InputStatistics, counted
from hf_quant.errors import CalibrationError
from hf_quant.formats.rotation import rotate
from hf_quant.modules.experts import OpenedExperts, expert_layers, rerouted
from hf_quant.modules.filters import Filters, rows_read
from hf_quant.observers.base import Observer

_SHOWN = 5


class _Sums:
    def __init__(self, width: int, device: torch.device, with_hessian: bool):
        self.count = 0
        self.total, self.total_abs, self.max_abs = (torch.zeros(width, device=device) for _ in range(3))
        self.hessian = torch.zeros(width, width, device=device) if with_hessian else None

    def add(self, rows: Tensor) -> None:
        if not len(rows):
            return  # all of it is padding, or an expert that no token was sent to
        magnitudes = rows.abs()
        self.count += len(rows)
        self.total += rows.sum(0)
        self.total_abs += magnitudes.sum(0)
        self.max_abs = torch.maximum(self.max_abs, magnitudes.amax(0))
        if self.hessian is not None:
            self.hessian.addmm_(rows.T, rows)

    def reduce(self) -> None:
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        count = torch.tensor([float(self.count)], dtype=torch.float64, device=self.total.device)
        for sums in (count, self.total, self.total_abs, *([] if self.hessian is None else [self.hessian])):
            distributed.all_reduce(sums)
        distributed.all_reduce(self.max_abs, op=distributed.ReduceOp.MAX)
        self.count = int(count.item())

    def statistics(self) -> InputStatistics:
        count = max(self.count, 1)
        hessian = None if self.hessian is None else self.hessian.div_(count)
        return InputStatistics(self.count, self.total / count, self.total_abs / count, self.max_abs, hessian)


class Collector:
    """Sums up the inputs of linears over batches. Linears that get the very same tensor share their sums.

    While it watches, padding is sent to no expert: what experts get are rows of tokens, which no mask fits.

    Args:
        root: What is run; its opened experts are those of `modules` that only get some of the tokens.
        modules: Linears and ``Conv1D`` to watch, by name.
        hessian: Whether ``x x^T`` is summed up, too.
        observers: Observers of inputs that get a static grid, by the name of the module.
        rotations: Sizes of the blocks that inputs are rotated in before they are quantized, by the name of the module.
        prefix: Text before the names of modules in messages.
    """

    def __init__(
        self,
        root: nn.Module,
        modules: Mapping[str, nn.Module],
        hessian: bool = False,
        observers: Mapping[str, Observer] | None = None,
        rotations: Mapping[str, int] | None = None,
        prefix: str = "",
    ):
        self.root = root
        self.modules = dict(modules)
        within = {
            id(module): layer
            for layer, experts in expert_layers(root)
            for module in experts.modules()
            if module != experts
        }
        self.layers = {name: within[id(module)] for name, module in modules.items() if id(module) in within}
        """Linears within experts, to the name of the layer of experts."""
        self.hessian = hessian
        self.observers = dict(observers or {})
        self.rotations = dict(rotations or {})
        self.prefix = prefix
        self.may_miss = False
        """Whether modules that the model does not call at all have no statistics, unless they are observed."""
        self.keep: Tensor | None = None
        """Tokens of the running batch that count, bool ``[batch, tokens]``; None for all."""
        self._leaders: dict[str, str] = {}
        self._sums: dict[str, _Sums] = {}
        self._seen: list[tuple[Tensor, int, str]] = []

    @contextmanager
    def watching(self) -> Iterator[Collector]:
        """Context in which the inputs of the modules are summed up."""
        handles = [
            module.register_forward_pre_hook(self._hook(name), with_kwargs=True)
            for name, module in self.modules.items()
        ]
        try:
            with rerouted(self.root, self._without_padding):
                yield self
        finally:
            self._seen = []
            for handle in handles:
                handle.remove()

    def next_batch(self, keep: Tensor | None) -> None:
        """Say which tokens of the batch that runs next are no padding."""
        self.keep, self._seen = keep, []

    def statistics(self) -> dict[str, InputStatistics]:
        """Input statistics of every module, over all ranks of ``torch.distributed``. Once: sums are handed over.

        Linears of an expert that no token was sent to have none, as long as others of its layer have.

        Raises:
            CalibrationError: A module was never called, or with NaN or infinite values.
        """
        found = {}
        self._agree()
        for leader in [name for name in self.modules if self._leaders.get(name) == name]:
            sums = self._sums.pop(leader, None) or self._no_sums(leader)
            sums.reduce()
            found[leader] = sums.statistics()
            if not bool(torch.isfinite(sums.total_abs).all() & torch.isfinite(sums.max_abs).all()):
                raise CalibrationError(
                    f"{self.prefix}{leader} gets NaN or infinite inputs: load the model in bfloat16 or float32, or "
                    "keep what makes them float with modules_to_not_convert"
                )
        reached = {name for name in self.modules if (own := found.get(self._leaders.get(name, ""))) and own.count}
        layers = {self.layers[name] for name in reached & self.layers.keys()}
        missed = [
            self.layers.get(name, name)
            for name in self.modules
            if name not in reached and self.layers.get(name) not in layers
            if not self.may_miss or name in self._leaders or name in self.observers
        ]
        if missed:
            names = [self.prefix + name for name in dict.fromkeys(missed)]
            others = f", nor {', '.join(names[1:_SHOWN])}{' ...' * (len(names) > _SHOWN)}" if names[1:] else ""
            raise CalibrationError(
                f"{names[0]} was never called with a token that counts{others}: calibrate on data that reaches all, or "
                f"leave out what it does not reach with modules_to_not_convert={names}"
            )
        for observer in self.observers.values():
            observer.reduce()
        return {name: found[self._leaders[name]] for name in self.modules if name in reached}

    def _agree(self) -> None:
        """Learn which linears share their sums from the ranks that called them: not all see each expert."""
        if self.layers and distributed.is_available() and distributed.is_initialized():
            ranks: list[dict[str, str]] = [{} for _ in range(distributed.get_world_size())]
            distributed.all_gather_object(ranks, self._leaders)
            self._leaders = {name: leader for leaders in ranks for name, leader in leaders.items()}

    def width(self, name: str) -> int:
        """Number of inputs of a watched module."""
        return int(weight_matrix(self.modules[name]).shape[1])

    def _no_sums(self, name: str) -> _Sums:
        return _Sums(self.width(name), weight_matrix(self.modules[name]).device, self.hessian)

    def _without_padding(self, experts: OpenedExperts, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        if self.keep is None:
            return index, weights
        if len(index) != self.keep.numel():
            raise CalibrationError(
                f"experts get {len(index)} rows of {self.keep.numel()} tokens, and nothing tells which of them are "
                "padding: calibrate on sequences of one length, such as those of packing=True"
            )
        return index.masked_fill(~self.keep.reshape(-1, 1), experts.experts), weights

    def _hook(self, name: str) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if isinstance(module, Filters):
                self._take(name, rows_read(module, args), is_shared=False)
            else:
                self._take(name, args[0] if args else next(iter(kwargs.values())))

        return watch

    @torch.no_grad()
    def _take(self, name: str, input: Tensor, is_shared: bool = True) -> None:
        version = 0 if input.is_inference() else input._version
        same = next((leader for seen, at, leader in self._seen if seen is input and at == version), None)
        leader = self._leaders.setdefault(name, same or name)
        keep = None if name in self.layers else self.keep
        if name in self.observers:
            rotation = self.rotations.get(name) if is_shared else None
            seen_by_kernel = input if rotation is None else rotate(input.to(torch.float32), rotation)
            try:
                self.observers[name].update(counted(seen_by_kernel, keep))
            except CalibrationError as error:
                raise CalibrationError(f"{self.prefix}{name}: {error}") from error
        if leader != name and same == leader:
            return
        sums = self._sums.get(leader)
        if sums is None:
            sums = self._sums[leader] = _Sums(input.shape[-1], input.device, self.hessian and is_shared)
        sums.add(counted(input.detach(), keep).to(torch.float32))
        if is_shared:
            self._seen.append((input, version, leader))
