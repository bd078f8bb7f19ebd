"""The methods of Transformers models that behave differently once a model is quantized."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel

from hf_quant.extending.original import ORIGINAL
from hf_quant.integration import footprint, resizing, saving
from hf_quant.integration.described import is_quantized, says_quantized
from hf_quant.training.prepared import prepared

EXTENSIONS: dict[str, Callable[..., Any]] = {
    "save_pretrained": saving.save_pretrained,
    "_upload_modified_files": saving.upload_modified_files,
    "get_memory_footprint": footprint.get_memory_footprint,
    "resize_token_embeddings": resizing.resize_token_embeddings,
}
"""Method of ``PreTrainedModel`` to the function that takes its place for models that are quantized, or
whose config says so; in training with quantization in the loop, the first does, too."""


def install() -> None:
    """Extend ``PreTrainedModel`` by `EXTENSIONS`. Does its work once.

    Transformers has no hook for any of these. A method of the instance would have to hold its model strongly, a cycle
    that keeps the memory until the garbage collector runs, or weakly, so that nothing would hold the model in
    ``from_pretrained(...).save_pretrained(...)``. So it is the class that is extended; for float models it behaves
    as before.
    """
    for name, function in EXTENSIONS.items():
        original = getattr(PreTrainedModel, name)
        if not hasattr(original, ORIGINAL):
            setattr(PreTrainedModel, name, _extended(original, function, name == "save_pretrained"))


def _extended(original: Callable[..., Any], function: Callable[..., Any], in_training: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(model: Any, *args: Any, **kwargs: Any) -> Any:
        is_trained = in_training and prepared(model) is not None
        if is_trained or says_quantized(model.config) or is_quantized(model):
            return function(model, *args, **kwargs)
        return original(model, *args, **kwargs)

    setattr(method, ORIGINAL, original)
    return method
