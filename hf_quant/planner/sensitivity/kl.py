"""The divergence of what the model predicts with one module quantized from what it predicts in float: no labels.

    loss = mean over tokens of KL(p || q) = sum_i p_i (log p_i - log q_i),

``p`` of the float model. It is never below 0, and has no share of chance from labels: fewer sequences tell as much as
of the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_quant.errors import CalibrationError
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.trials import Trials


class KlDivergence(Trials):
    """Sensitivity by mean KL divergence, over tokens for models with logits for each, else over examples."""

    name = "kl"
    labelled = False

    def reference(self, outputs: Any, row: Row) -> Tensor:
        """Log-probabilities of the float model on a sequence, float32 ``[tokens or examples, classes]``."""
        found = torch.log_softmax(_logits(outputs, row, type(self.model).__name__), -1)
        if not bool(torch.isfinite(found).all()):
            raise CalibrationError("the model's logits are NaN or infinite on the data: load it in float32")
        return found

    def score(self, outputs: Any, reference: Tensor, row: Row) -> float:
        """Mean KL divergence of a quantized model's predictions from the float ones on a sequence, in nats."""
        found = torch.log_softmax(_logits(outputs, row, type(self.model).__name__), -1)
        return float(torch.nn.functional.kl_div(found, reference, reduction="batchmean", log_target=True))


def _logits(outputs: Any, row: Row, name: str) -> Tensor:
    """Logits without those of padding, float32 ``[tokens or examples, classes]``."""
    logits = getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise CalibrationError(
            f"a {name} gives no logits to compare: take the measure output-error, or a model with a head"
        )
    mask = row.get("attention_mask")
    if logits.ndim == 3 and mask is not None and mask.shape == logits.shape[:2]:
        logits = logits[mask.bool()]
    return logits.reshape(-1, logits.shape[-1]).to(torch.float32)
