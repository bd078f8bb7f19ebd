"""Quantization with data: block by block, each on the outputs of the quantized blocks before it; or as a whole."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_quant.algorithms.base import MEANS, InputStatistics, QuantizedWeight
from hf_quant.calibration.blocks import (
    BlockInput,
    first_inputs,
    first_of,
    passed_over,
    run_block,
    tokens_that_count,
)
from hf_quant.calibration.collect import Collector
from hf_quant.calibration.data import Calibration
from hf_quant.calibration.pairs import Pair, find_pairs, structure_of, weight_matrix
from hf_quant.calibration.resume import Progress
from hf_quant.calibration.rows import FIELDS
from hf_quant.config.scheme import Scheme
from hf_quant.errors import CalibrationError
from hf_quant.hardware.free_memory import give_back_memory
from hf_quant.modules.experts import expert_layers
from hf_quant.modules.swap import share_tied
from hf_quant.quantizing.algorithms import Algorithms, is_static
from hf_quant.quantizing.batches import model_batches
from hf_quant.quantizing.kept_blocks import keep, taken_up
from hf_quant.quantizing.probe import blocks_to_run
from hf_quant.quantizing.replacements import Replacements
from hf_quant.quantizing.resolve import Resolution
from hf_quant.quantizing.starved import Starved, grids_of, tokens_of_experts

logger = logging.getLogger(__name__)

Inputs = dict[str, InputStatistics]

_MOST_BYTES = 2**30
"""Of second moments of inputs of modules that are not in blocks, together."""

_TRACED_TOKENS = 128
"""Tokens of the one sequence that pairs are found and proved on, which takes dozens of runs of a block."""


class CalibratedRun:
    """One run over a model. Call `quantize`.

    Memory: beside the model it holds the inputs of one block and the statistics of its linears; float weights are
    freed block by block as their codes are made.

    Args:
        model: Float, in evaluation; changed in place.
        resolution: What is quantized, and how.
        algorithms: The recipe's.
        calibration: The data.
        progress: Show a progress bar.
    """

    def __init__(
        self,
        model: Any,
        resolution: Resolution,
        algorithms: Algorithms,
        calibration: Calibration,
        progress: bool = True,
    ):
        self.model = model
        self.resolution = resolution
        self.algorithms = algorithms
        self.calibration = calibration
        self.show = progress
        self.list_name, self.blocks = "", nn.ModuleList()
        """Blocks that are run one by one; none where the model is run as a whole."""
        self.modules: Replacements
        self._pairs: dict[Any, list[Pair]] = {}
        self.losses: dict[str, float] = {}
        """Relative error of each block's output on the first batch, against the float block on the same inputs."""
        self.waiting: dict[str, tuple[Scheme, Any]] = {}
        """Modules of blocks whose weight another has that is quantized later, with scheme and grid of the input."""
        self.starved = Starved(experts=sum(experts.experts for _, experts in expert_layers(model)))

    @torch.no_grad()
    def quantize(self, kept: Progress | None = None) -> None:
        """Quantize everything that the plan names. What a model draws at random is drawn by the data's seed.

        Args:
            kept: Where to keep progress, and to go on from.

        Raises:
            CalibrationError: The data or what the model makes of it is not usable.
            ConfigError: The solver cannot take a scheme of the plan.
            WeightError: A weight holds NaN or Inf.
        """
        training = self.model.training
        self.model.eval()
        devices = {each.device for each in self.model.parameters() if each.device.type == "cuda"}
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.calibration.seed)
            try:
                self._quantize(kept)
            finally:
                self.model.train(training)

    def _quantize(self, kept: Progress | None) -> None:
        batches = self._batches()
        if not batches:
            raise CalibrationError("the calibration data has no batch for this process: give more samples")
        self.list_name, self.blocks = blocks_to_run(self.model, self.resolution, self.algorithms, batches)
        self.modules = Replacements(self.model, self.resolution, self.list_name)
        self._check_schemes()
        tables, ties = self.modules.outside("embedding"), self.resolution.ties
        for name, scheme in tables.items():
            if ties.get(name, name) in tables:  # else its weight is that of a module which is float for now
                self.modules.replace(name, scheme, self.modules.rounded(name, scheme), None)
        share_tied(self.model, {t: s for t, s in ties.items() if self.modules.is_replaced(t)})
        if len(self.blocks):
            entries = list(first_inputs(self.model, self.blocks, batches))
        else:
            if kept is not None:
                logger.warning("no progress is kept: there are no blocks that are done one after the other")
            nothing = torch.empty(0)
            entries = [BlockInput(nothing, keep=tokens_that_count(batch)) for batch in batches]
        traced = self._traced() if self.algorithms.transforms else None
        if self.algorithms.block_solver is not None:
            for entry in entries:
                entry.reference = entry.hidden
        for index in (bar := tqdm(range(len(self.blocks)), desc="Calibrating", disable=not self.show)):
            name = f"{self.list_name}.{index}"
            if kept is not None and index < kept.done:
                tensors, self.losses[name], starved = taken_up(kept, index, entries)
                self.starved.tokens.update(starved)
                self.modules.restore(index, tensors)
                continue
            self._quantize_block(index, entries, traced)
            bar.set_postfix({"error": f"{self.losses[name]:.2e}"})
            if kept is not None and not self.waiting:  # what waits is in no block that is kept
                starved = {each: n for each, n in self.starved.tokens.items() if each.startswith(f"{name}.")}
                keep(kept, index, self.blocks[index], self.losses[name], starved, entries)
        self._quantize_rest(entries)
        if warning := str(self.starved):
            logger.warning("%s", warning)

    def _check_schemes(self) -> None:
        solver = self.algorithms.block_solver
        for name, scheme in self.resolution.plan.modules.items():
            if solver is None or scheme is None or not scheme.weight.has_scales:
                continue
            if name.startswith(f"{self.list_name}."):
                solver.check_scheme(scheme, name)

    def _batches(self) -> list[dict[str, Tensor]]:
        return model_batches(self.model, self.calibration)

    def _traced(self) -> BlockInput:
        """The beginning of the first sequence, on its way into the first block."""
        start = first_of(self._batches()[0])
        if start.keys() <= {*FIELDS, "decoder_input_ids"}:
            start = {name: tensor[:, :_TRACED_TOKENS] for name, tensor in start.items()}
        return next(iter(first_inputs(self.model, self.blocks, [start])))

    def _quantize_block(self, index: int, entries: list[BlockInput], traced: BlockInput | None) -> None:
        block, prefix = self.blocks[index], f"{self.list_name}.{index}."
        schemes = {
            name.removeprefix(prefix): scheme
            for name, scheme in self.resolution.plan.modules.items()
            if name.startswith(prefix) and scheme is not None
        }
        kinds = self.resolution.inventory.candidates
        tables = [name for name in schemes if kinds[prefix + name].kind == "embedding"]
        coded = {name: scheme for name, scheme in schemes.items() if scheme.weight.has_scales and name not in tables}
        algorithms = self.algorithms
        inputs: Inputs = {}
        is_observed = any(is_static(scheme) for scheme in coded.values())
        collector = self._collector(block, prefix, coded, observe=is_observed and not algorithms.transforms)
        counts_tokens = bool(collector.layers) and algorithms.block_solver is not None
        if bool(algorithms.needs) or counts_tokens or (is_observed and not algorithms.transforms):
            expected = self._pass(block, index, entries, collector)
            # A transform changes what a linear gets that is called another time.
            collector.may_miss = not algorithms.transforms
            inputs = collector.statistics()
        else:
            expected = run_block(block, index, entries[0])
        tokens = tokens_of_experts(collector, inputs)
        few = {name for name, count in tokens.items() if count < MEANS}
        fed = {name: scheme for name, scheme in coded.items() if name not in few}
        for entry in entries if algorithms.block_solver is not None else []:
            entry.reference = run_block(block, index, entry, entry.reference)
        if traced is not None and coded:
            _take_from_file(block)
            traced.hidden = entries[0].hidden[:1, : traced.hidden.shape[1]]
            args, kwargs = traced.call(index)
            structure = structure_of(block)
            pairs = self._pairs[structure] = find_pairs(block, args, kwargs, self._pairs.get(structure))
            for transform in algorithms.transforms:
                transformed = transform.apply(block, pairs, inputs, fed)
                inputs = transformed.inputs
                for line in transformed.report:
                    logger.debug("%s%s", prefix, line)
            if is_observed:
                collector = self._collector(block, prefix, coded, observe=True, with_hessian=False)
                self._pass(block, index, entries, collector)
                collector.statistics()
        grids = grids_of(collector, coded, few)
        rounded = {name for name, count in tokens.items() if count < algorithms.least_tokens(collector.width(name))}
        filters = {name for name in coded if kinds[prefix + name].kind == "filters"}
        solved = self._solve_block(block, index, coded, inputs, entries, prefix, rounded | filters)
        starved = rounded | (few if algorithms.transforms or algorithms.bias_correction or grids else set())
        self.starved.tokens.update((prefix + name, tokens[name]) for name in tokens if name in starved)
        for name in tables:
            if (codes := self.modules.rounded(prefix + name, schemes[name])) is not None:
                solved[name] = codes
        for name, scheme in schemes.items():
            mean = (
                inputs[name].mean
                if algorithms.bias_correction and name in inputs and name not in few | filters
                else None
            )
            owner = self.resolution.ties.get(prefix + name)
            if owner is not None and not self.modules.is_replaced(owner):
                self.waiting[prefix + name] = (scheme, grids.get(name))  # until there are codes
                continue
            self.modules.replace(prefix + name, scheme, solved.get(name), mean, grids.get(name))
        for position, entry in enumerate(entries):
            output = run_block(block, index, entry)
            if position == 0:
                self.losses[prefix[:-1]] = _relative_error(output, expected, entry.keep)
            entry.hidden = output
        give_back_memory()

    def _solve_block(
        self,
        block: nn.Module,
        index: int,
        schemes: dict[str, Scheme],
        inputs: Inputs,
        entries: list[BlockInput],
        prefix: str,
        rounded: Collection[str],
    ) -> dict[str, QuantizedWeight]:
        solved: dict[str, QuantizedWeight] = {}
        for name in rounded:
            codes = self.modules.rounded(prefix + name, schemes[name])
            solved.update({} if codes is None else {name: codes})
        schemes = {name: scheme for name, scheme in schemes.items() if name not in rounded}
        if self.algorithms.block_solver is not None and schemes:
            calls = [entry.call(index) for entry in entries]
            keep = [entry.keep for entry in entries]
            targets = [entry.reference for entry in entries if entry.reference is not None]
            with torch.enable_grad():
                return solved | self.algorithms.block_solver.solve_block(
                    block, schemes, calls, targets, keep, self.calibration.seed
                )
        uncalled = [name for name in schemes if self.algorithms.solver.needs and name not in inputs]
        if uncalled:
            logger.warning("the model calls no %s in %s: rounded to nearest", ", ".join(uncalled), prefix[:-1])
        for name, scheme in schemes.items():
            if name in uncalled and (codes := self.modules.rounded(prefix + name, scheme)) is not None:
                solved[name] = codes
                continue
            weight = weight_matrix(block.get_submodule(name))
            solved[name] = self.algorithms.solver.solve(
                weight, scheme.weight, f"{prefix}{name}.weight", inputs.get(name)
            )
            if name in inputs:
                inputs[name] = replace(inputs[name], hessian=None)  # the largest thing in memory, and done with
            give_back_memory()
        return solved

    def _quantize_rest(self, entries: list[BlockInput]) -> None:
        # What comes after the blocks, and whatever is called beside them.
        rest = {name: scheme for name, scheme in self.modules.outside().items() if not self.modules.is_replaced(name)}
        for part in self._parts(rest):
            self._quantize_part(part, entries)
        for name, (scheme, grid) in self.waiting.items():
            self.modules.replace(name, scheme, None, None, grid)
        share_tied(self.model, self.resolution.ties)

    def _parts(self, rest: dict[str, Scheme]) -> list[dict[str, Scheme]]:
        """Modules that are run for together, so that their statistics fit into memory."""
        parts: list[dict[str, Scheme]] = [{}]
        taken = 0
        for name, scheme in rest.items():
            width = weight_matrix(self.model.get_submodule(name)).shape[1]
            taken += 4 * width**2 if "hessian" in self.algorithms.needs and scheme.weight.has_scales else 0
            if taken > _MOST_BYTES and parts[-1]:
                parts.append({})
                taken = 4 * width**2
            parts[-1][name] = scheme
        return parts

    def _quantize_part(self, part: dict[str, Scheme], entries: list[BlockInput]) -> None:
        coded = {name: scheme for name, scheme in part.items() if scheme.weight.has_scales}
        untied = {name for name in coded if name not in self.resolution.ties}
        observed = {name: scheme for name, scheme in coded.items() if name in untied or is_static(scheme)}
        inputs: Inputs = {}
        needs = bool(self.algorithms.needs) and bool(untied)
        collector = self._collector(self.model, "", observed, observe=True)
        if observed and (needs or collector.observers):
            with passed_over(self.blocks, entries[0].in_tuples) as result, collector.watching():
                hides = len(self.blocks) > 0 or not self.show
                for batch, entry in tqdm(
                    zip(self._batches(), entries, strict=True), "Calibrating", len(entries), disable=hides
                ):
                    result[:] = [entry.hidden]
                    collector.next_batch(entry.keep)
                    self.model(**batch)
            collector.may_miss = True
            inputs = collector.statistics()
        grids = grids_of(collector, coded, ())
        kinds = self.resolution.inventory.candidates
        filters = {name for name in coded if kinds[name].kind == "filters"}
        uncalled = [name for name in sorted(untied - filters) if needs and name not in inputs]
        if uncalled:
            logger.warning("the model calls no %s: rounded to nearest", ", ".join(uncalled))
        for name, scheme in part.items():
            solved = self.modules.rounded(name, scheme) if name in uncalled or name in filters else None
            if name in untied and solved is None:
                weight = weight_matrix(self.model.get_submodule(name))
                solved = self.algorithms.solver.solve(weight, scheme.weight, f"{name}.weight", inputs.get(name))
            mean = inputs[name].mean if self.algorithms.bias_correction and name in inputs.keys() - filters else None
            self.modules.replace(name, scheme, solved, mean, grids.get(name))

    def _collector(
        self, root: nn.Module, prefix: str, schemes: Mapping[str, Scheme], observe: bool, with_hessian: bool = True
    ) -> Collector:
        static = {name: scheme for name, scheme in schemes.items() if observe and is_static(scheme)}
        return Collector(
            root,
            {name: root.get_submodule(name) for name in schemes},
            with_hessian and "hessian" in self.algorithms.needs,
            {name: self.algorithms.observe(scheme) for name, scheme in static.items()},
            {name: scheme.weight.rotation for name, scheme in static.items() if scheme.weight.rotation is not None},
            prefix,
        )

    def _pass(self, block: nn.Module, index: int, entries: list[BlockInput], collector: Collector) -> Tensor:
        """Run all batches for the collector; the output of the first."""
        first = None
        with collector.watching():
            for entry in entries:
                collector.next_batch(entry.keep)
                output = run_block(block, index, entry)
                first = output if first is None else first
        assert first is not None
        return first


def _take_from_file(block: nn.Module) -> None:
    """Copy parameters, which may lie in the mapped file of a checkpoint, before they are changed in place.

    A page of the file that is written to would stay in memory for as long as any tensor of that file is in use.
    """
    for parameter in block.parameters():
        parameter.data = parameter.data.clone()


def _relative_error(found: Tensor, expected: Tensor, keep: Tensor | None) -> float:
    found, expected = found.float(), expected.float()
    if keep is not None:
        found, expected = found[keep], expected[keep]
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))
