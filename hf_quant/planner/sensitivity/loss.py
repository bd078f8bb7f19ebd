"""The rise of the model's loss with one module quantized, as it is: for one pass a module and scheme."""

from __future__ import annotations

from typing import Any

from hf_quant.planner.sensitivity.gradients import require_finite
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.trials import Trials


class LossChange(Trials):
    """Loss with a module quantized less the float model's; by chance, or where a model gains, below 0."""

    name = "loss"

    def reference(self, outputs: Any, row: Row) -> float:
        """As `Trials.reference`."""
        require_finite(outputs.loss)
        return float(outputs.loss)

    def score(self, outputs: Any, reference: float, row: Row) -> float:
        """As `Trials.score`."""
        return float(outputs.loss) - reference
