"""From what a user calls a metric to an `evaluate.EvaluationModule`."""

from __future__ import annotations

import importlib
from typing import Any

import datasets
import evaluate

from hf_quant.errors import EvaluationError, MetricUnavailable
from hf_quant.evaluation import METRICS
from hf_quant.evaluation.metrics.base import ANSWERS, SEQUENCES, OfflineMetric
from hf_quant.registry import unknown

_LOWER_IS_BETTER = (
    *("perplexity", "loss", "error", "wer", "cer", "ter", "mse", "mae", "rmse", "mape", "smape", "mase", "brier_score"),
    *("log_loss", "word_perplexity", "byte_perplexity", "bits_per_byte", "exact_match_error"),
)
"""Names of values of metrics of `evaluate` and `lm-eval` that are better when lower."""


def metric_module(metric: str | evaluate.EvaluationModule) -> evaluate.EvaluationModule:
    """A metric by its name: one of this package, or what ``evaluate.load`` finds in a folder or on the Hub.

    Raises:
        MetricUnavailable: The metric needs the network, which is not there, or a package that is not installed.
        EvaluationError: What is given is no name and no `evaluate.EvaluationModule`.
    """
    if isinstance(metric, evaluate.EvaluationModule):
        return metric
    if not isinstance(metric, str):
        raise EvaluationError(f"a metric is a name or an evaluate.EvaluationModule, not {metric!r}")
    if metric in METRICS:
        return METRICS[metric]()
    try:
        return _loaded(metric)
    except ImportError as error:
        raise MetricUnavailable(f"the metric {metric!r} needs a package that is not installed: {error}") from error
    except (OSError, ValueError) as error:
        raise MetricUnavailable(
            f"{unknown('metric of this package', metric, METRICS)}. evaluate.load({metric!r}) has found nothing in a "
            "folder of that name and nothing on the Hub, which needs the network: take one of those, a folder with the "
            "metric's script, or pass an evaluate.EvaluationModule"
        ) from error


def _loaded(metric: str) -> evaluate.EvaluationModule:
    try:
        return evaluate.load(metric)
    except ModuleNotFoundError as error:
        # The script was written to a folder of modules a moment ago, which Python may have listed just before.
        if not str(error.name).startswith("evaluate_modules"):
            raise
        importlib.invalidate_caches()
        return evaluate.load(metric)


def needs(module: evaluate.EvaluationModule) -> str:
    """Kind of input that a metric takes, such as `ANSWERS`; for a foreign metric, as far as its features tell."""
    if isinstance(module, OfflineMetric):
        return module.needs
    features = module.features[0] if isinstance(module.features, list) else module.features
    kind = features.get("predictions")
    return SEQUENCES if isinstance(kind, datasets.Sequence | datasets.List | list) else ANSWERS


def higher_is_better(module: evaluate.EvaluationModule, value: str) -> bool:
    """Whether higher is better for one of a metric's values."""
    if isinstance(module, OfflineMetric):
        return module.higher_is_better
    return value not in _LOWER_IS_BETTER and module.name not in _LOWER_IS_BETTER


def is_fraction(module: evaluate.EvaluationModule, values: tuple[float, float], higher: bool) -> bool:
    """Whether one of a metric's values is a part of 1, so that a point is a hundredth."""
    if isinstance(module, OfflineMetric):
        return module.is_fraction
    return higher and all(-1 <= value <= 1 for value in values)


def only_numbers(output: Any) -> dict[str, float]:
    """The single numbers among the values that a metric's ``compute`` gave."""
    found = {}
    for name, value in (output or {}).items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            continue
    return found
