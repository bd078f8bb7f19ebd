"""Results of tasks that answer token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from hf_quant.evaluation.distributions import compare
from hf_quant.evaluation.outputs import require_finite
from hf_quant.evaluation.statistics import Counts
from hf_quant.evaluation.tasks.base import Batch, Result


@dataclass(frozen=True)
class Places:
    """Positions of a feature's answers in the logits, and the right answers.

    Args:
        positions: Positions of the logits that answer, in ascending order.
        targets: Right class at each position, int64 ``[positions]``.
        bytes: Bytes in UTF-8 of the text that the targets stand for; None if not known.
        notes: What `Task.describe` needs to put the example into words.
    """

    positions: Sequence[int]
    targets: Counts
    bytes: int | None = None
    notes: Any = None


def token_results(batch: Batch, reference: Tensor, quantized: Tensor) -> list[Result]:
    """Results of features that answer at several positions; harm is the rise of the mean loss, in nats.

    Args:
        batch: Batch whose features have one sequence each, and `Places` as notes.
        reference: Logits of the reference, ``[features, tokens, classes]``.
        quantized: Logits of the quantized model, ``[features, tokens, classes]``.

    Raises:
        EvaluationError: Logits are NaN.
    """
    results = []
    for row, feature in enumerate(batch.features):
        places: Places = feature.notes
        first, last = places.positions[0], places.positions[-1]
        # A slice is a view, a list of positions a copy.
        whole = len(places.positions) == last - first + 1
        where: Any = slice(first, last + 1) if whole else list(places.positions)
        targets = reference.new_tensor(places.targets).long()
        found = compare(reference[row, where], quantized[row, where], targets)
        require_finite(found.is_finite, f"example {feature.example}")
        answers = (found.choices[0].numpy(), found.choices[1].numpy())
        right = [answer == places.targets for answer in answers]
        losses = (float(found.losses[0].sum()), float(found.losses[1].sum()))
        results.append(
            Result(
                feature.example,
                places.targets,
                answers,
                harm=(losses[1] - losses[0]) / len(places.targets),
                units=len(places.targets),
                kl=float(found.kl.sum()),
                same=int((answers[0] == answers[1]).sum()),
                to_wrong=int((right[0] & ~right[1]).sum()),
                to_right=int((right[1] & ~right[0]).sum()),
                losses=losses,
                bytes=places.bytes,
                notes=places.notes,
            )
        )
    return results


def merged(results: Sequence[Result]) -> list[Result]:
    """Merge results of the same example, such as windows of one text, into one."""
    found: dict[int, list[Result]] = {}
    for result in results:
        found.setdefault(result.example, []).append(result)
    return [_sum(found[example]) for example in sorted(found)]


def _sum(parts: Sequence[Result]) -> Result:
    if len(parts) == 1:
        return parts[0]

    def total(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    losses = [part.losses for part in parts if part.losses is not None]
    summed = (sum(first for first, _ in losses), sum(second for _, second in losses))
    answers = tuple(np.concatenate([part.answers[which] for part in parts]) for which in (0, 1))
    return replace(
        parts[0],
        target=np.concatenate([part.target for part in parts]),
        answers=(answers[0], answers[1]),
        harm=(summed[1] - summed[0]) / total("units"),
        losses=summed,
        **{name: total(name) for name in ("units", "kl", "same", "to_wrong", "to_right", "bytes")},
    )
