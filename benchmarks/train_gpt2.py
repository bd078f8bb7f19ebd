"""Train a small GPT-2 on BBC news, so that a model with `Conv1D` layers and honest float weights can be measured.

Writes a Hugging Face checkpoint and `training.json` (settings, final loss, held-out perplexity). About ten minutes on
two cores with bfloat16 instructions. An interrupted run continues where it last saved, batch for batch.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.trained import train_once, write_trained
from hf_quant.demo.cache import cache_directory
from hf_quant.demo.texts import news_split
from hf_quant.evaluation.perplexity import perplexity
from hf_quant.hardware.detect import cpu_features

EXAMPLES = """examples:
  python -m benchmarks.train_gpt2                          train into the cache, or do nothing if that was done
  python -m benchmarks.train_gpt2 --force --seed 1         train anew
  python -m benchmarks.train_gpt2 --steps 50 --output ./tiny-run
"""
END = "<|endoftext|>"
CONTEXT = 256
WARMUP_STEPS = 100


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="checkpoint folder (default: gpt2-news in the hf_quant cache)")
    parser.add_argument("--steps", type=int, default=1800, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="windows of 256 tokens a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="peak of the cosine (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="weights, batches and dropout (default: %(default)s)")
    parser.add_argument(
        "--save-every", type=int, default=200, help="steps between resume points (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="discard the output if it exists, and train anew")
    return parser.parse_args()


def train_tokenizer(texts: list[str], vocabulary: int = 8192) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose token 0 ends a text."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=CONTEXT
    )


def new_model(vocabulary: int) -> GPT2LMHeadModel:
    """GPT-2 with 6.9M parameters.

    No dropout on attention weights, and the tanh GELU by the name that PyTorch fuses: both halve the time of a step.
    """
    shape: dict[str, Any] = {"n_embd": 256, "n_layer": 6, "n_head": 8, "n_positions": CONTEXT}
    ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, attn_pdrop=0.0, activation_function="gelu_pytorch_tanh", **shape, **ends)
    )


def new_optimizer(model: GPT2LMHeadModel) -> torch.optim.AdamW:
    """AdamW, with weight decay on matrices only."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a tenth of `peak`."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def train(model: GPT2LMHeadModel, stream: Tensor, settings: dict[str, Any], resume: Path, save_every: int) -> float:
    """Train `model` in place on random windows of `stream`; returns the mean loss of the last 100 steps (nats)."""
    optimizer = new_optimizer(model)
    begin, losses = 0, []
    if resume.is_file():
        saved = torch.load(resume, weights_only=True)
        if saved["settings"] == settings:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            begin, losses = saved["step"], saved["losses"]
        else:
            print(f"{resume} is of a run with other settings ({saved['settings']}); starting afresh")
    model.train()
    bar = tqdm(range(begin, settings["steps"]), initial=begin, total=settings["steps"], mininterval=2)
    for step in bar:
        # Seeded by the step, so that batches and dropout do not depend on whether the run was interrupted.
        torch.manual_seed(settings["seed"] * 1_000_003 + step)
        starts = torch.randint(len(stream) - CONTEXT, (settings["batch_size"],))
        windows = torch.stack([stream[start : start + CONTEXT + 1] for start in starts.tolist()])
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, settings["steps"], settings["learning_rate"])
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_features().multiplies_bfloat16):
            logits = model(input_ids=windows[:, :-1]).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses = [*losses[-99:], loss.item()]
        bar.set_postfix(loss=f"{sum(losses) / len(losses):.3f}", refresh=False)
        if (step + 1) % save_every == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            save_atomically({**state, "step": step + 1, "settings": settings}, resume)
    return sum(losses) / len(losses)


def save_atomically(state: dict[str, Any], file: Path) -> None:
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, file)


def build(options: argparse.Namespace, resume: Path) -> Callable[[Path], None]:
    """What fills the output folder."""
    settings = {name: getattr(options, name) for name in ("steps", "batch_size", "learning_rate", "seed")}

    def write(folder: Path) -> None:
        began = time.monotonic()
        train_texts, test_texts = ([text for _, text in part] for part in news_split())
        tokenizer = train_tokenizer(train_texts)
        stream = torch.tensor(tokenizer(END.join(train_texts), verbose=False)["input_ids"])
        torch.manual_seed(options.seed)
        model = new_model(len(tokenizer))
        loss = train(model, stream, settings, resume, options.save_every)
        held_out = perplexity(model, tokenizer, test_texts, sequence_length=CONTEXT, progress=True)
        record = {
            **settings,
            "parameters": model.num_parameters(),
            "training_tokens": len(stream),
            "training_loss": loss,
            "held_out_perplexity": held_out,
            "held_out_articles": len(test_texts),
            "seconds_of_last_run": round(time.monotonic() - began),
        }
        write_trained(folder, model, tokenizer, record)

    return write


def main() -> None:
    options = arguments()
    output = options.output or cache_directory() / "gpt2-news"
    torch.set_num_threads(options.threads)
    resume = output.with_name(output.name + ".resume.pt")
    train_once(output, resume, options.force, build(options, resume))


if __name__ == "__main__":
    main()
