"""The rise of the model's loss with one module quantized, as it is: for one pass a module and scheme."""

from __future__ import annotations

from typing import Any

from hf_quant.planner.sensitivity.gradients import require_finite
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.trials import Trials


class LossChange(Trials):
    """Sensitivity by the measured rise of the loss, which may be below 0 by chance or where a model gains."""

    name = "loss"

    def reference(self, outputs: Any, row: Row) -> float:
        """The float model's loss on a sequence, in nats."""
        require_finite(outputs.loss)
        return float(outputs.loss)

    def score(self, outputs: Any, reference: float, row: Row) -> float:
        """Rise of the loss on a sequence with a module quantized, in nats."""
        return float(outputs.loss) - reference
