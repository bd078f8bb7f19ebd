"""A measure run over data: with progress, over several processes, and going on after an interruption."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed
from tqdm.auto import tqdm

from hf_quant.config.scheme import Scheme
from hf_quant.errors import CalibrationError, SaveError
from hf_quant.planner.processes import place
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity.base import Losses, Measure
from hf_quant.planner.sensitivity.sequences import sequences_of
from hf_quant.planner.sensitivity.table import LossTable, read_losses, write_losses

_SECONDS = 60.0
"""At least so long between two times that progress is written."""

_SHARE = 20.0
"""And at least so many times as long as writing it took."""


def analyse(
    model: Any,
    batches: Sequence[Mapping[str, Tensor]],
    schemes: Sequence[Scheme],
    measure: str = "fisher",
    *,
    file: Path | None = None,
    fingerprint: str = "",
    progress: bool = True,
) -> LossTable:
    """What each scheme for each module loses, by one of `MEASURES`.

    In ``torch.distributed``, processes share the sequences (or, of few, the modules), then the rounding of weights by
    modules, and all have the whole table.

    Args:
        model: Float, with a head that computes a loss unless the measure needs none; it is as it was afterwards.
        batches: ``input_ids``, ``attention_mask``, and ``labels`` unless the model writes text.
        schemes: With integer or float weights; inputs dynamic or none.
        measure: A name of `MEASURES`.
        file: To keep the table in, and to take it from. An analysis that was interrupted leaves its progress beside
            it, and goes on from there.
        fingerprint: Of model and data, which the file has to have.
        progress: Show a progress bar.

    Raises:
        CalibrationError: There is no data, no loss without labels, or a loss is NaN.
        ConfigError: The file is of something else.
        PlanError: A sensitivity is NaN (the module is named).
        SaveError: The file, or progress beside it, cannot be written.
    """
    kind: type[Measure] = MEASURES[measure]
    if file is not None and file.is_file():
        return read_losses(file, fingerprint)
    rows = list(sequences_of(batches, model, kind.labelled))
    if not rows:
        raise CalibrationError("there is no data to measure sensitivities on: give texts")
    rank, ranks = place()
    work = kind(model, schemes)
    mine = _shared(len(rows), work.parts, rank, ranks)
    kept = None if file is None else _Kept(file.with_name(f".{file.name}.{rank}-of-{ranks}"), fingerprint)
    done = 0 if kept is None else kept.read(work)
    with (
        work.running(),
        tqdm(total=len(mine), initial=done, desc=f"Sensitivity: {measure}", disable=not progress) as bar,
    ):
        try:
            for number, (row, part) in enumerate(mine[done:], done + 1):
                work.add(rows[row], part)
                done = number
                bar.update()
                if kept is not None and kept.is_due():
                    kept.write(work, done)
        except BaseException:
            if kept is not None and done:
                kept.write(work, done)
            raise
    found = work.losses(len(rows)) if ranks == 1 else _losses_in_parts(work, len(rows), rank, ranks)
    rows_of_losses = tuple(map(tuple, found))
    table = LossTable(measure, work.unit, tuple(work.candidates), work.schemes, rows_of_losses, fingerprint)
    if file is not None and rank == 0:
        write_losses(table, file)
    if kept is not None:
        kept.remove()
    return table


def _shared(rows: int, parts: int, rank: int, ranks: int) -> list[tuple[int, int]]:
    """Rows and parts that a process works on; parts of one row stay together where there are rows for all."""
    if rows >= ranks:
        return [(row, part) for row in range(rank, rows, ranks) for part in range(parts)]
    return [(row, part) for row in range(rows) for part in range(rank, parts, ranks)]


def _losses_in_parts(work: Measure, sequences: int, rank: int, ranks: int) -> Losses:
    """`Measure.losses` of what all processes added; each rounds some of the weights, and is sent what those need."""
    sizes = {name: work.model.get_submodule(name).weight.numel() for name in work.candidates}
    modules = _dealt({name: size if work.counts_weight(name) else 0 for name, size in sizes.items()}, ranks)
    for name in sorted(work.sums):
        if name in modules:
            distributed.reduce(work.sums[name], dst=modules[name])
        else:
            distributed.all_reduce(work.sums[name])
    losses = work.zeros()
    for name, number in work.places.items():
        if modules[name] == rank:
            losses[number] = torch.tensor(
                [0.0 if loss is None else loss for loss in work.losses_of(name, sequences)], dtype=losses.dtype
            )
    distributed.all_reduce(losses)
    return [work.where_fitted(name, row) for name, row in zip(work.candidates, losses.tolist(), strict=True)]


def _dealt(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """A rank for each name, the largest first and each to whoever has least."""
    loads = [0] * ranks
    found = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        found[name] = min(range(ranks), key=loads.__getitem__)
        loads[found[name]] += sizes[name]
    return found


class _Kept:
    """Sums of an analysis that is not done, in a file."""

    def __init__(self, file: Path, fingerprint: str):
        self.file, self.fingerprint = file, fingerprint
        self._next = time.monotonic() + _SECONDS

    def is_due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() >= self._next

    def write(self, work: Measure, done: int) -> None:
        """Write whole or not at all.

        Raises:
            SaveError: It cannot be written.
        """
        began = time.monotonic()
        partial = self.file.with_name(f"{self.file.name}.part")
        sums = {name: tensor.contiguous() for name, tensor in work.sums.items()}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(sums, partial, metadata={"fingerprint": self.fingerprint, "done": str(done)})
            partial.replace(self.file)
        except (OSError, SafetensorError) as error:
            raise SaveError(f"cannot keep the progress of the analysis in {self.file}: {error}") from error
        now = time.monotonic()
        self._next = now + max(_SECONDS, _SHARE * (now - began))

    def read(self, work: Measure) -> int:
        """Give `work` the sums there are, and say how many parts they are of; 0 where there are none of the same."""
        try:
            with safe_open(self.file, "pt") as found:
                facts = found.metadata() or {}
                if facts.get("fingerprint") != self.fingerprint or set(found.keys()) != set(work.sums):
                    return 0
                sums = {name: found.get_tensor(name) for name in work.sums}
                if any(sums[name].shape != tensor.shape for name, tensor in work.sums.items()):
                    return 0
                done = int(facts["done"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return 0
        for name, tensor in work.sums.items():
            tensor.copy_(sums[name])
        return done

    def remove(self) -> None:
        """The analysis is done."""
        self.file.unlink(missing_ok=True)
