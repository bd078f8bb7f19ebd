"""A measure run over data: with progress, over several processes, and going on after an interruption."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from tqdm.auto import tqdm

from hf_quant.algorithms.rtn import checked_range
from hf_quant.config.scheme import Scheme
from hf_quant.errors import CalibrationError, ConfigError
from hf_quant.modules.inventory import Inventory
from hf_quant.opening.open import opens_model
from hf_quant.planner.processes import place
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity.base import Losses, Measure, fitted
from hf_quant.planner.sensitivity.interrupts import Interrupts
from hf_quant.planner.sensitivity.kept_sums import KeptSums
from hf_quant.planner.sensitivity.sequences import sequences_of
from hf_quant.planner.sensitivity.table import LossTable, read_losses, write_losses

logger = logging.getLogger(__name__)


@opens_model
def analyse(
    model: Any,
    batches: Sequence[Mapping[str, Tensor]],
    schemes: Sequence[Scheme],
    measure: str = "fisher",
    *,
    file: Path | None = None,
    fingerprint: str = "",
    progress: bool = True,
    inventory: Inventory | None = None,
) -> LossTable:
    """Measure the sensitivity of each module to each scheme: the predicted rise of the model's loss.

    Experts of one layer are measured together, under the name of the first. Those that get no token add nothing to
    what the others lose by all tokens; where none gets one, no scheme has a loss, with a warning, so that plans keep
    these experts float.

    In ``torch.distributed``, processes share the sequences (or the modules, if there are few sequences), then the
    rounding of weights by modules, and all get the whole table.

    Args:
        model: Float model with a head that computes a loss, unless the measure needs none; it is left unchanged.
        batches: Batches of ``input_ids``, ``attention_mask``, and ``labels`` unless the model writes text.
        schemes: Schemes with integer or float weights; inputs dynamic or not quantized.
        measure: Name of the measure, one of `MEASURES`.
        file: File that the table is read from if it exists, else written to. An analysis that was interrupted leaves
            its progress beside it and goes on from there: after Ctrl-C from the last sequence, after a kill from about
            a minute before. None: nothing is kept.
        fingerprint: Fingerprint of model and data, which a file's table has to have.
        progress: Show a progress bar.
        inventory: The model's inventory, if it was made already; None: it is made here.

    Raises:
        CalibrationError: There is no data, no loss without labels, or a loss is NaN.
        WeightError: A parameter holds NaN or infinity; it is named.
        ConfigError: The file's table is of another model, other data, another measure or other schemes.
        PlanError: A sensitivity is NaN (the module is named).
        SaveError: The file, or progress beside it, cannot be written.
    """
    kind: type[Measure] = MEASURES[measure]
    inventory = Inventory.of(model) if inventory is None else inventory
    if file is not None and file.is_file():
        table = _kept_table(file, fingerprint, measure, schemes)
        _warn_of_unknown(table, inventory)
        return table
    _check_parameters(model)
    rows = list(sequences_of(batches, model, kind.labelled))
    if not rows:
        raise CalibrationError("there is no data to measure sensitivities on: give texts")
    rank, ranks = place()
    work = kind(model, schemes, inventory)
    mine = _shared(len(rows), work.parts, rank, ranks)
    kept = None if file is None else KeptSums(file.with_name(f".{file.name}.{rank}-of-{ranks}"), fingerprint)
    done = 0 if kept is None else kept.read(work)
    with (
        work.running(),
        Interrupts() as interrupts,
        tqdm(total=len(mine), initial=done, desc=f"Sensitivity: {measure}", disable=not progress) as bar,
    ):
        for number, (row, part) in enumerate(mine[done:], done + 1):
            work.add(rows[row], part)  # whatever it raises, sums may hold a half of a part: they are not kept
            done = number
            bar.update()
            try:
                interrupts.check()
            except KeyboardInterrupt:
                if kept is not None:
                    kept.write(work, done)
                raise
            if kept is not None and kept.is_due():
                kept.write(work, done)
    found = work.losses(len(rows)) if ranks == 1 else _losses_in_parts(work, len(rows), rank, ranks)
    unknown = work.not_reached()
    rows_of_losses = tuple(
        (None,) * len(row) if name in unknown else tuple(row) for name, row in zip(work.members, found, strict=True)
    )
    table = LossTable(measure, work.unit, tuple(work.members), work.schemes, rows_of_losses, fingerprint)
    _warn_of_unknown(table, work.inventory)
    if file is not None and rank == 0:
        write_losses(table, file)
    if kept is not None:
        kept.remove()
    return table


def _kept_table(file: Path, fingerprint: str, measure: str, schemes: Sequence[Scheme]) -> LossTable:
    table = read_losses(file, fingerprint)
    if table.measure != measure or tuple(table.schemes) != tuple(schemes):
        raise ConfigError(
            f"{file} has losses by {table.measure}, or for other schemes: give another file, or delete it"
        )
    return table


def _warn_of_unknown(table: LossTable, inventory: Inventory) -> None:
    experts = {name: row for name, row in zip(table.modules, table.losses, strict=True) if name in inventory.experts}
    unknown = [
        name
        for name, row in experts.items()
        if all(loss is None for loss in row)
        and any(fitted(scheme, inventory.candidates[name], name) for scheme in table.schemes)
    ]
    if unknown:
        logger.warning(
            "no token of the data came to %s and the like of the layer's other experts (%d of %d such): what they lose "
            "is not known, and plans keep them float; give data that reaches them",
            unknown[0],
            len(unknown),
            len(experts),
        )


def _check_parameters(model: Any) -> None:
    # Told before any work: a loss that is NaN does not say of which module.
    for name, parameter in model.named_parameters():
        if parameter.numel():
            checked_range(parameter.detach().flatten(), 0, name)


def _shared(rows: int, parts: int, rank: int, ranks: int) -> list[tuple[int, int]]:
    """Row and part of each piece of work of one process; a row's parts stay together if there are rows for all."""
    if rows >= ranks:
        return [(row, part) for row in range(rank, rows, ranks) for part in range(parts)]
    return [(row, part) for row in range(rows) for part in range(rank, parts, ranks)]


def _losses_in_parts(work: Measure, sequences: int, rank: int, ranks: int) -> Losses:
    """Losses from the sums of all processes, each of which rounds some of the weights and gets the sums for them."""
    weights = {name: work.model.get_submodule(name).weight.numel() for name in work.candidates}
    sizes = {
        name: sum(map(weights.__getitem__, filter(work.counts_weight, work.members[name]))) for name in work.members
    }
    modules = _dealt(sizes, ranks)
    ranks_of = {member: modules[name] for name, members in work.members.items() for member in members}
    for name in sorted(work.sums):
        if name in ranks_of:
            distributed.reduce(work.sums[name], dst=ranks_of[name])
        else:
            distributed.all_reduce(work.sums[name])
    losses = work.zeros()
    for number, name in enumerate(work.members):
        if modules[name] == rank:
            losses[number] = torch.tensor(
                [0.0 if loss is None else loss for loss in work.losses_of(name, sequences)], dtype=losses.dtype
            )
    distributed.all_reduce(losses)
    return [work.where_fitted(name, row) for name, row in zip(work.members, losses.tolist(), strict=True)]


def _dealt(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Names to ranks with about equal loads: the largest first, each to the rank with the least."""
    loads = [0] * ranks
    found = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        found[name] = min(range(ranks), key=loads.__getitem__)
        loads[found[name]] += sizes[name]
    return found
