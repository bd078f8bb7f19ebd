"""Static inputs of a model that does not go block by block, observed while all of it runs as floats."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.calibration.blocks import BlockInput, find_blocks, first_inputs, passed_over, run_block
from hf_quant.calibration.collect import Collector
from hf_quant.calibration.data import Calibration
from hf_quant.calibration.pairs import weight_matrix
from hf_quant.errors import CalibrationError, HfQuantError
from hf_quant.modules.experts import expert_layers
from hf_quant.modules.swap import Places, share_tied
from hf_quant.quantizing.algorithms import Algorithms, is_static
from hf_quant.quantizing.batches import model_batches
from hf_quant.quantizing.fill import replace_module
from hf_quant.quantizing.resolve import Resolution
from hf_quant.quantizing.starved import Starved, grids_of, tokens_of_experts

logger = logging.getLogger(__name__)


def is_observed_whole(model: Any, resolution: Resolution, algorithms: Algorithms, calibration: Calibration) -> bool:
    """Whether a run only has to observe static inputs, and the model's blocks cannot be run one by one.

    Blocks are run alone, and the model without them, on the first batch: linears that the whole model calls and these
    do not, shapes that change, and blocks in another order say that they cannot.

    Raises:
        CalibrationError: The model cannot be called with the data.
    """
    if algorithms.needs or algorithms.block_solver is not None or algorithms.transforms:
        return False
    batch = next(iter(model_batches(model, calibration)), None)
    names = {name for name, scheme in resolution.plan.modules.items() if scheme is not None and is_static(scheme)}
    if batch is None or not names:
        return False
    training = model.training
    model.eval()
    try:
        try:
            called = _called(model, names, lambda: model(**batch))
        except Exception as error:  # models say in many ways that they need something else
            raise CalibrationError(
                f"{type(model).__name__} cannot be called with {', '.join(batch)} of the calibration data: {error}"
            ) from error
        try:
            blocks: Any = model.get_submodule(find_blocks(model))
            entry = next(iter(first_inputs(model, blocks, [batch])))
            alone = _called(model, names, lambda: _run_by_blocks(model, blocks, entry, batch))
        except (HfQuantError, TypeError, ValueError, IndexError, AttributeError, RuntimeError):
            return True  # models say in many ways that their blocks need something else
        return called != alone
    finally:
        model.train(training)


@torch.no_grad()
def observe_whole(model: Any, resolution: Resolution, algorithms: Algorithms, calibration: Calibration) -> Starved:
    """Observe every static input on the float model, then replace all that the plan names.

    Args:
        model: Float; changed in place once all was observed.
        resolution: What is quantized, and how.
        algorithms: The recipe's, which need no statistics.
        calibration: The data.

    Returns:
        Experts that got too few tokens for a grid of their own.

    Raises:
        CalibrationError: The data is not usable, or reaches not every static input; the model is as it was.
    """
    logger.warning("%s does not go block by block: static inputs are observed on the float model", type(model).__name__)
    plan = {name: scheme for name, scheme in resolution.plan.modules.items() if scheme is not None}
    static = {name: scheme for name, scheme in plan.items() if is_static(scheme)}
    collector = Collector(
        model,
        {name: model.get_submodule(name) for name in static},
        observers={name: algorithms.observe(scheme) for name, scheme in static.items()},
        rotations={name: size for name, scheme in static.items() if (size := scheme.weight.rotation) is not None},
    )
    batches = model_batches(model, calibration)
    if not batches:
        raise CalibrationError("the calibration data has no batch for this process: give more samples")
    with _evaluating(model), collector.watching():
        for batch in batches:
            mask = batch.get("attention_mask")
            is_of_tokens = not any(tensor.is_floating_point() for tensor in batch.values())
            collector.next_batch(mask.bool() if is_of_tokens and mask is not None and not bool(mask.all()) else None)
            model(**batch)
    tokens = tokens_of_experts(collector, collector.statistics())
    few = {name for name, count in tokens.items() if not count}
    grids = grids_of(collector, static, few)
    places = Places(model)
    for name, scheme in plan.items():
        solved = None
        if scheme.weight.has_scales and name not in resolution.ties:
            weight = weight_matrix(model.get_submodule(name))
            solved = algorithms.solver.solve(weight, scheme.weight, f"{name}.weight")
        replace_module(model, name, scheme, resolution.ties, solved, None, grids.get(name), places)
    share_tied(model, resolution.ties)
    starved = Starved({name: tokens[name] for name in few}, sum(each.experts for _, each in expert_layers(model)))
    if warning := str(starved):
        logger.warning("%s", warning)
    return starved


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def _called(model: nn.Module, names: set[str], run: Callable[[], Any]) -> set[str]:
    """Which of some modules are called while something runs."""
    found: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        return lambda *_: found.add(name)

    handles = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _run_by_blocks(model: Any, blocks: nn.ModuleList, entry: BlockInput, batch: dict[str, Tensor]) -> None:
    """Run blocks one by one on what the model calls them with, then the model without them."""
    for index, block in enumerate(blocks):
        entry.hidden = run_block(block, index, entry)
    with passed_over(blocks, entry.in_tuples) as result:
        result[:] = [entry.hidden]
        model(**batch)
