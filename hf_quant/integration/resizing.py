"""Resizing the vocabulary of a quantized model."""

from __future__ import annotations

from typing import Any

from hf_quant.errors import UnsupportedModel
from hf_quant.extending.original import original_method
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule


def resize_token_embeddings(model: Any, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
    """``PreTrainedModel.resize_token_embeddings`` where the table is float; refused where it is codes.

    Raises:
        UnsupportedModel: The embedding is quantized and would change its size; the model is as it was.
    """
    table = model.get_input_embeddings()
    changes = new_num_tokens is not None and new_num_tokens != getattr(table, "num_embeddings", None)
    if changes and isinstance(table, QuantizedModule | StoredModule):
        raise UnsupportedModel(
            "the vocabulary of a quantized model cannot be resized: resize the float model, then quantize it, or "
            "keep the embedding float with modules_to_not_convert"
        )
    return original_method("resize_token_embeddings")(model, new_num_tokens, *args, **kwargs)
