"""How much a model loses by each scheme for each module: one measure a file."""

from hf_quant.registry import Registry

MEASURES = Registry("sensitivity", {"fisher": "hf_quant.planner.sensitivity.fisher:fisher"})
"""``measure(model, batches, schemes, progress) -> LossTable``."""
