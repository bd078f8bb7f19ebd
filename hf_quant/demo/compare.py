"""One real model in several precisions: what it takes, how fast it is, how good it still is."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hf_quant.config.presets import get_preset
from hf_quant.demo.packaged import minilm_directory, smollm2_directory
from hf_quant.demo.quality import topic_accuracy
from hf_quant.demo.texts import news_split
from hf_quant.errors import UnknownName
from hf_quant.evaluation.perplexity import perplexity
from hf_quant.hardware.free_memory import give_back_memory
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.registry import unknown

PRECISIONS = ("fp32", "int8", "int4")
MODELS = ("minilm", "smollm2")

_PROMPT = "The government said on Tuesday that"
_TOKENS = 32


@dataclass(frozen=True)
class Figures:
    """Measurements of one model in one precision.

    Args:
        title: Name of the model and of the text.
        precision: Name of the preset.
        file_bytes: Size of the weights on disk.
        resident_bytes: Growth of the process's resident memory from before loading to after running.
        latency_ms: Median, in milliseconds, of what `latency_name` says.
        latency_name: What was timed, in words.
        quality: Value of what `quality_name` says.
        quality_name: Name of the metric, and whether higher or lower is better.
    """

    title: str
    precision: str
    file_bytes: int
    resident_bytes: int
    latency_ms: float
    latency_name: str
    quality: float
    quality_name: str


def compare(model: str, quick: bool = False, precisions: tuple[str, ...] = PRECISIONS) -> Iterator[Figures]:
    """Quantize, save, reload and measure `model` in each precision, each reload in a process of its own.

    Args:
        model: Name of the model, one of `MODELS`.
        quick: Use about a tenth of the text.
        precisions: Names of presets; ``"fp32"`` is the float model as it is.

    Raises:
        UnknownName: No such model or preset.
        MissingDependency: The package that carries the model is not installed.
    """
    if model not in MODELS:
        raise UnknownName(unknown("demo model", model, MODELS))
    for precision in precisions:
        get_preset(precision)
    source = str(minilm_directory() if model == "minilm" else smollm2_directory())
    for precision in tqdm(precisions, desc=f"{model}: quantize, save, reload, run", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            # Fresh processes: only then is the memory of the second that of one model.
            for work in (_save, _measure):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    figures = pool.submit(work, model, source, precision, folder, quick).result()
        assert figures is not None
        yield figures


def _save(model: str, source: str, precision: str, folder: str, quick: bool) -> None:
    _quiet()
    config = None if precision == "fp32" else HfQuantConfig(precision)
    loaded = _auto_class(model).from_pretrained(source, quantization_config=config, dtype=torch.float32)
    loaded.save_pretrained(folder)


def _measure(model: str, source: str, precision: str, folder: str, quick: bool) -> Figures:
    _quiet()
    tokenizer = AutoTokenizer.from_pretrained(source)
    train, test = news_split()
    torch.randn(256, 256) @ torch.randn(256, 256)  # threads and libraries are up before memory is counted
    before = _resident()
    loaded = _auto_class(model).from_pretrained(folder)
    file_bytes = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    if model == "minilm":
        latency, name = _encoder_latency(loaded, tokenizer, test[0][1]), "one text, 128 tokens"
    else:
        latency, name = _decoder_latency(loaded, tokenizer), "per token, generating"
    resident = _resident() - before
    if model == "minilm":
        train, test = (train[::10], test[::10]) if quick else (train[::2], test)
        quality = topic_accuracy(loaded, tokenizer, train, test)
        title, quality_name = "MiniLM-L6 (BERT), BBC news topics", "topic accuracy (higher is better)"
    else:
        quality = perplexity(loaded, tokenizer, [text for _, text in test[: 3 if quick else 20]])
        title, quality_name = "SmolLM2-135M (Llama), BBC news", "perplexity (lower is better)"
    return Figures(title, precision, file_bytes, resident, latency, name, quality, quality_name)


def _resident() -> int:
    """Resident bytes of this process, after what was freed is given back where the C library can do that."""
    gc.collect()
    give_back_memory()
    return int(psutil.Process().memory_info().rss)


@torch.inference_mode()
def _encoder_latency(model: Any, tokenizer: Any, text: str) -> float:
    batch = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
    times = []
    for _ in range(33):
        start = time.perf_counter()
        model(**batch)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[3:])


@torch.inference_mode()
def _decoder_latency(model: Any, tokenizer: Any) -> float:
    ids = tokenizer(_PROMPT, return_tensors="pt").input_ids
    output = model(input_ids=ids, use_cache=True)
    times = []
    for _ in range(_TOKENS):
        token = output.logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[3:])


def _auto_class(model: str) -> Any:
    return AutoModel if model == "minilm" else AutoModelForCausalLM


def _quiet() -> None:
    # The parent shows one bar; the children's would write over it.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
