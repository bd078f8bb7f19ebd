"""Metrics that need no network: one a file, each an `evaluate.EvaluationModule`."""
