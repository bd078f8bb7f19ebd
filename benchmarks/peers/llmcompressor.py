"""llm-compressor: GPTQ and AWQ in the format of compressed-tensors."""

# The libraries are those of the peer's interpreter.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.peers.job import run


def quantize(checkpoint: Path, tokens: torch.Tensor, output: Path, settings: dict[str, Any]) -> None:
    """Save what the modifiers of ``settings["modifiers"]`` make.

    Other settings are ``bits``, ``group_size``, ``symmetric`` and ``observer``; modifiers are names with options.
    """
    from datasets import Dataset
    from llmcompressor import modifiers, oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        # Done without asking whether there is anything to pin memory for, which raises; it changes no number.
        IntermediatesCache.pin_memory = lambda *_, **__: None
    weights = {
        "num_bits": settings["bits"],
        "type": "int",
        "strategy": "group",
        "group_size": settings["group_size"],
        "symmetric": settings["symmetric"],
        "observer": settings["observer"],
    }
    scheme = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
    kinds: dict[str, type[modifiers.Modifier]] = {
        "awq": AWQModifier,
        "gptq": GPTQModifier,
        "rtn": QuantizationModifier,
    }
    recipe = [
        kinds[name](**({} if name == "awq" else scheme), **options) for name, options in settings["modifiers"].items()
    ]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    data = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()})
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        num_calibration_samples=len(tokens),
        max_seq_length=tokens.shape[1],
        shuffle_calibration_samples=False,
    )
    # Scales are stored as the model is: in 16 bits, like those of the others.
    for name, buffer in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("weight_scale"):
            buffer.data = buffer.data.to(torch.float16)
    model.save_pretrained(output, save_compressed=True)


if __name__ == "__main__":
    run(quantize)
