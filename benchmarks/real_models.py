"""INT8 and INT4 on real checkpoints of the three families: size, load memory, exactness of reload, quality.

    python -m benchmarks.real_models                      # MiniLM (BERT), SmolLM2-135M (Llama), Gemma 3, small GPT-2
    python -m benchmarks.real_models --models smollm2 --articles 5

GPT-2 has to be trained once with benchmarks/train_gpt2.py; being small, it hardly reacts to INT4, so it is shown at 3
and 2 bits too. Perplexities are on news articles that none of the models was trained on by this repository.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from benchmarks.memory import PeakAnonymous, in_fresh_process
from hf_quant import HfQuantConfig, Scheme, TensorScheme
from hf_quant.demo.packaged import gemma3_directory, gpt2_directory, minilm_directory, smollm2_directory
from hf_quant.demo.quality import topic_accuracy
from hf_quant.demo.texts import news_split
from hf_quant.evaluation.perplexity import perplexity
from hf_quant.modules.positions import most_tokens

MODELS = {
    "minilm": (minilm_directory, AutoModel, ("fp32", "bf16", "int8", "int8 unrotated", "w8a16", "int4")),
    "smollm2": (
        smollm2_directory,
        AutoModelForCausalLM,
        ("fp32", "bf16", "int8", "int8 unrotated", "w8a16", "int4", "w4a16"),
    ),
    "gemma3": (gemma3_directory, AutoModelForCausalLM, ("fp32", "int8", "int4", "w4a16")),
    "gpt2": (gpt2_directory, AutoModelForCausalLM, ("fp32", "bf16", "int8", "int4", "3 bits", "2 bits")),
}


# What rounding does to outputs is read against bfloat16, in which these models usually run: not quantized, computed so.
FLOAT = {"fp32": torch.float32, "bf16": torch.bfloat16}


def config_of(name: str) -> HfQuantConfig | None:
    if name in FLOAT:
        return None
    if name.endswith("unrotated"):
        return HfQuantConfig(name.split()[0], rotation=0)
    if not name.endswith("bits"):
        return HfQuantConfig(name)
    inputs = TensorScheme(bits=8, symmetric=False, granularity="token", dynamic=True)
    weight = TensorScheme(bits=int(name.split()[0]), symmetric=False, granularity="group", group_size=64)
    return HfQuantConfig(scheme=Scheme(weight, inputs))


def figures(model: str, precision: str, articles: int) -> dict[str, Any]:
    """All figures of one model in one precision."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    directory, auto_class, _ = MODELS[model]
    source = directory()
    tokenizer = AutoTokenizer.from_pretrained(source)
    train, test = news_split()
    with PeakAnonymous() as memory:
        dtype = FLOAT.get(precision, torch.float32)
        loaded = auto_class.from_pretrained(source, quantization_config=config_of(precision), dtype=dtype)
    batch = tokenizer(test[0][1], truncation=True, max_length=128, return_tensors="pt")
    float_model = auto_class.from_pretrained(source, dtype=torch.float32)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        output, expected = loaded(**batch)[0], float_model(**batch)[0]
        loaded.save_pretrained(folder)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        reloaded = auto_class.from_pretrained(folder)(**batch)[0]
    if model == "minilm":
        quality = topic_accuracy(loaded, tokenizer, train, test)
    else:
        length = min(512, most_tokens(loaded) or 512)
        quality = perplexity(loaded, tokenizer, [text for _, text in test[:articles]], length)
    by_token = (output - expected).norm(dim=-1) / expected.norm(dim=-1)
    return {
        "file": size,
        "peak": memory.bytes,
        "reload": (reloaded - output).abs().max().item(),
        "error": ((output - expected).norm() / expected.norm()).item(),
        "median": by_token.median().item(),
        "quality": quality,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--articles", type=int, default=20, help="news articles that perplexity is measured on")
    arguments = parser.parse_args()
    for model in arguments.models:
        metric = "topic accuracy" if model == "minilm" else "perplexity"
        print(f"\n{model}\n\n| | file | peak anonymous memory of the load | reload difference | output error ", end="")
        print(f"| of the median token | {metric} |\n|---|---|---|---|---|---|---|")
        base = None
        for precision in MODELS[model][2]:
            row = in_fresh_process(figures, model, precision, arguments.articles)
            base = base or row
            change = row["quality"] / base["quality"] - 1
            print(
                f"| {precision} | {row['file'] / 1e6:.1f} MB ({row['file'] / base['file']:.1%}) "
                f"| {row['peak'] / 1e6:.1f} MB | {row['reload']:g} | {row['error']:.2%} | {row['median']:.2%} "
                f"| {row['quality']:.4f} ({change:+.2%}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
