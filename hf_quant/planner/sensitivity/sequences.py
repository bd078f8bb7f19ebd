"""Sequences that sensitivities are measured on, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from hf_quant.errors import CalibrationError

IGNORED = -100
"""Label of tokens that are left out of the loss."""

Sequence = Mapping[str, Any]
"""Keyword arguments to call a model with for one sequence, ``input_ids`` ``[1, tokens]``, or for one image."""


def sequences_of(batches: Iterable[Mapping[str, Tensor]], model: Any, labelled: bool) -> Iterator[Sequence]:
    """Batches split into single sequences, on the model's device and with the cache of keys and values off.

    Args:
        batches: Batches of ``input_ids``, ``attention_mask`` and, if there are any, ``labels``; or of what else the
            model reads, such as ``pixel_values``.
        model: The model that will be called.
        labelled: Whether sequences need labels. A model that writes text gets its inputs as labels, padding left out.
            If False, labels are removed, so that no loss is computed.

    Raises:
        CalibrationError: Labels are wanted of a model that does not write, and there are none.
    """
    device = next(model.parameters()).device
    for batch in batches:
        if labelled and "labels" not in batch and not (writes_text(model) and "input_ids" in batch):
            raise CalibrationError(
                f"a {type(model).__name__} has no loss without labels: give batches with labels, or take the measure "
                "kl or output-error"
            )
        for single in singles(batch):
            row: dict[str, Any] = {name: tensor.to(device) for name, tensor in single.items()}
            if not labelled:
                row.pop("labels", None)
            elif "labels" not in row:
                mask, ids = row.get("attention_mask"), row["input_ids"]
                row["labels"] = ids if mask is None else ids.masked_fill(mask == 0, IGNORED)
            if writes_text(model):
                row["use_cache"] = False
            yield row


def singles(batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """A batch split into batches of one sequence each.

    Raises:
        CalibrationError: Its tensors are not of as many sequences each.
    """
    sizes = {name: len(tensor) for name, tensor in batch.items()}
    if len({*sizes.values()}) != 1:
        raise CalibrationError(f"tensors of a batch have no row each for every sequence: {sizes}")
    return [{n: tensor[i : i + 1] for n, tensor in batch.items()} for i in range(next(iter(sizes.values())))]


def kept_of(row: Sequence) -> Tensor | None:
    """Tokens of a sequence that are no padding, bool ``[1, tokens]``; None where all count."""
    mask = row.get("attention_mask")
    return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def counted_losses(row: Sequence) -> int:
    """Number of single losses that the model's loss on a sequence averages: its labelled tokens, or 1."""
    labels = row["labels"]
    if labels.ndim < 2:
        return 1
    counted = labels[:, 1:] if "use_cache" in row else labels
    return max(1, int((counted != IGNORED).sum()))


def writes_text(model: Any) -> bool:
    """Whether the model's loss is that of the next token."""
    return bool(getattr(model, "can_generate", lambda: False)())


def unit_of(model: Any) -> str:
    """Unit of a model's loss, in words."""
    return "nats per token" if writes_text(model) else "nats per example"
