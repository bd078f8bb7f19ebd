"""How a model can be run on calibration data, seen before anything of it is changed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.calibration.blocks import find_blocks, first_inputs, first_of, passed_over, run_block
from hf_quant.errors import CalibrationError, HfQuantError
from hf_quant.modules.experts import expert_layers
from hf_quant.quantizing.algorithms import Algorithms, is_static
from hf_quant.quantizing.resolve import Resolution

logger = logging.getLogger(__name__)

_SHOWN = 5


@torch.no_grad()
def blocks_to_run(
    model: Any, resolution: Resolution, algorithms: Algorithms, batches: Sequence[dict[str, Tensor]]
) -> tuple[str, nn.ModuleList]:
    """Name and list of the blocks that are run one by one; an empty list where the model has to be run as a whole.

    Blocks are run alone, and the model without them, on a first sample: linears that the whole model calls and these do
    not, shapes that change, and blocks in another order say that they cannot.

    Args:
        model: Float, in evaluation.
        resolution: What is quantized, and how.
        algorithms: The recipe's, which may need blocks.
        batches: What the model is called with.

    Raises:
        CalibrationError: The model cannot be called with the data; the data does not reach modules with static inputs,
            all of which are named; or algorithms need blocks, and there are none that can be run one by one.
        UnsupportedModel: The same, where there are no equal blocks at all.
    """
    within = {name for name, _ in expert_layers(model)}
    planned = {
        name: scheme
        for name, scheme in resolution.plan.modules.items()
        if scheme is not None and resolution.inventory.candidates[name].kind != "embedding"
        if not any(name.startswith(f"{layer}.") for layer in within)
    }
    sample = first_of(batches[0])
    called = _called(model, planned, lambda: _call(model, sample))
    _check_reached(model, {name for name, scheme in planned.items() if is_static(scheme)}, called, planned, batches)
    if algorithms.in_blocks:
        name = find_blocks(model)
        return name, model.get_submodule(name)
    try:
        name = find_blocks(model)
        blocks: nn.ModuleList = model.get_submodule(name)
        reached = _called(model, planned, lambda: _run_by_blocks(model, blocks, sample))
    except (HfQuantError, TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        # Models say in many ways that their blocks need something else.
        logger.warning("%s is run as a whole, not block by block: %s", type(model).__name__, error)
        return "", nn.ModuleList()
    if reached != called:
        logger.warning("%s is run as a whole: not all is called block by block", type(model).__name__)
        return "", nn.ModuleList()
    return name, blocks


def _call(model: Any, batch: dict[str, Tensor]) -> None:
    try:
        model(**batch)
    except HfQuantError:
        raise
    except Exception as error:  # whatever others raise
        asked = inspect.signature(model.forward).parameters.keys() - batch.keys()
        more = " (its decoder reads decoder_input_ids: add them to the data)" if "decoder_input_ids" in asked else ""
        raise CalibrationError(
            f"{type(model).__name__} cannot be called with {', '.join(batch)} of the calibration data{more}: {error}"
        ) from error


def _check_reached(
    model: Any,
    static: Collection[str],
    called: set[str],
    planned: Collection[str],
    batches: Sequence[dict[str, Tensor]],
) -> None:
    missed = {*static} - called
    for batch in batches:
        if not missed:
            return
        missed -= _called(model, missed, lambda batch=batch: _call(model, batch))  # type: ignore[misc]
    if missed:
        roots = _roots(missed, planned)
        shown = ", ".join(roots[:_SHOWN]) + (f" and {len(roots) - _SHOWN} more" if len(roots) > _SHOWN else "")
        raise CalibrationError(
            f"the calibration data does not reach {shown}: calibrate on data that does, as a vision tower needs "
            f"images, or leave {'it' if len(roots) == 1 else 'them'} out with modules_to_not_convert={roots}"
        )


def _roots(missed: set[str], planned: Collection[str]) -> list[str]:
    """The outermost modules in which everything that is planned was missed."""
    roots: dict[str, None] = {}
    for name in planned:
        if name not in missed:
            continue
        root = name
        while parent := root.rpartition(".")[0]:
            if any(other not in missed for other in planned if other.startswith(f"{parent}.")):
                break
            root = parent
        roots[root] = None
    return list(roots)


def _called(model: nn.Module, names: Collection[str], run: Callable[[], Any]) -> set[str]:
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


def _run_by_blocks(model: Any, blocks: nn.ModuleList, batch: dict[str, Tensor]) -> None:
    """Run blocks one by one on what the model calls them with, then the model without them."""
    entry = next(iter(first_inputs(model, blocks, [batch])))
    for index, block in enumerate(blocks):
        entry.hidden = run_block(block, index, entry)
    with passed_over(blocks, entry.in_tuples) as result:
        result[:] = [entry.hidden]
        model(**batch)
