"""Quantized models as users of other packages make them."""

import pytest
import torch
from transformers import AutoTokenizer

import hf_quant
from hf_quant.demo.packaged import smollm2_directory
from tests.integration.tiny import auto_class, tiny_model

PRESETS = ("int8", "int4")

slow = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
"""Marks of these tests; what other packages warn of is theirs."""


def saved_float(directory, name="llama", **changes):
    """A tiny float checkpoint in `directory`."""
    tiny_model(name, **changes).save_pretrained(directory)
    return directory


def quantized(path, preset, kept=None, **options):
    """A checkpoint in `path` of the family that its folder is named after, quantized on the fly but for `kept`."""
    config = hf_quant.HfQuantConfig(preset, modules_to_not_convert=kept)
    options = {"dtype": torch.float32, **options}
    return auto_class(path.name).from_pretrained(path, quantization_config=config, **options).eval()


def chat_checkpoint(directory):
    """A tiny float Llama in `directory` with the tokenizer of SmolLM2, and that tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_directory())
    saved_float(directory, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    tokenizer.save_pretrained(directory)
    return tokenizer
