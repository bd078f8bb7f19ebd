"""What training won back, in one table."""

from __future__ import annotations

from collections.abc import Sequence

from hf_quant.evaluation.report import DropReport
from hf_quant.reporting import words
from hf_quant.reporting.tables.table import Table

_ROUNDED, _TRAINED = "rounded, not trained", "trained"


def comparison(drops: Sequence[DropReport]) -> Table:
    """Table that compares models, a row for each metric: float, rounded without training, trained.

    Args:
        drops: Reports of what was lost against the float model: by rounding alone, if measured, then after training.
    """
    names = [_ROUNDED, _TRAINED][-len(drops) :]
    rows = []
    for index, metric in enumerate(drops[-1].metrics):
        row = [metric.name + (" (higher is better)" if metric.higher_is_better else " (lower is better)")]
        row.append(words.value(metric.reference))
        for drop in drops:
            found = drop.metrics[index]
            row.append(f"{words.value(found.quantized)}, lost {words.drop(found)}")
        rows.append(tuple(row))
    confidence = words.percent(drops[-1].confidence, 0)
    return Table(
        ("metric", "float", *names),
        tuple(rows),
        caption=f"{drops[-1].data.name}: {drops[-1].data.examples:,} examples not trained on; in brackets the "
        f"paired {confidence} interval of what is lost against the float model.",
        numbers=(1,),
    )
