"""Figures of evaluations as the Hub's metadata, ``model-index``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from huggingface_hub import EvalResult

from hf_quant.evaluation.report import DropReport, MetricDrop

_TOOL = "hf_quant"
"""Value in a metric's arguments that marks the results which are ours to renew."""

_TASKS = {"masked-lm": "fill-mask", "causal-lm": "text-generation", "perplexity": "text-generation"}
"""Names of tasks to the Hub's names, where they differ."""

_METRICS = {"matthews": "matthews_correlation", "spearman": "spearmanr", "pearson": "pearsonr"}


def eval_results(drops: Sequence[DropReport]) -> list[EvalResult]:
    """Results for the Hub, one for each metric of the quantized model; the comparison is in the metric's arguments."""
    return [_result(drop, metric) for drop in drops for metric in drop.metrics]


def is_ours(result: EvalResult) -> bool:
    """Whether a result was made by `eval_results`."""
    return isinstance(result.metric_args, dict) and result.metric_args.get("tool") == _TOOL


def _result(drop: DropReport, metric: MetricDrop) -> EvalResult:
    slug = re.sub(r"\W+", "_", metric.name).strip("_").lower()
    return EvalResult(
        task_type=_TASKS.get(drop.task, drop.task),
        dataset_type=re.sub(r"[^\w./-]+", "-", drop.data.name) or "local",
        dataset_name=drop.data.name,
        dataset_split=drop.data.split,
        dataset_args={"sha256": drop.data.fingerprint, "examples": drop.data.examples},
        metric_type=_METRICS.get(slug, slug),
        metric_name=metric.name,
        metric_value=metric.quantized,
        metric_args={
            "tool": _TOOL,
            "reference": metric.reference,
            "loss": metric.drop,
            "loss_low": metric.low,
            "loss_high": metric.high,
            "confidence": drop.confidence,
        },
    )
