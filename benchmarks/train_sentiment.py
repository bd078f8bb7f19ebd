"""Fine-tune MiniLM to tell favourable film reviews from others, so that a classifier can be measured.

Writes a Hugging Face checkpoint and `training.json` (settings, accuracy on sentences held out). A few minutes on two
cores with bfloat16 instructions. An interrupted run continues from its last checkpoint, batch for batch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from benchmarks.trained import train_once, write_trained
from hf_quant.demo.cache import cache_directory
from hf_quant.demo.packaged import minilm_directory
from hf_quant.demo.quality import label_accuracy
from hf_quant.demo.texts import Labelled, download_review_archive, review_sentences, review_split
from hf_quant.hardware.detect import cpu_features

EXAMPLES = """examples:
  python -m benchmarks.train_sentiment                       train into the cache, or do nothing if that was done
  python -m benchmarks.train_sentiment --force --seed 1      train anew
  python -m benchmarks.train_sentiment --steps 10 --output ./tiny-run
"""
LABELS = ("negative", "positive")
MAX_LENGTH = 64
SETTINGS = ("epochs", "steps", "batch_size", "learning_rate", "seed")
"""Options that decide what comes out."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="checkpoint folder (default: minilm-sentiment in the cache)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the sentences (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=-1, help="optimizer steps, in place of epochs")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences of a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="first of a line to 0 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="head, order and dropout (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="discard the output if it exists, and train anew")
    return parser.parse_args()


def new_model(seed: int) -> PreTrainedModel:
    """MiniLM with a head that knows nothing yet."""
    logging.set_verbosity_error()  # that the head is new needs no warning
    set_seed(seed)
    names = dict(enumerate(LABELS))
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        minilm_directory(), id2label=names, label2id={name: index for index, name in names.items()}
    )
    return model


def examples(tokenizer: Any, sentences: Sequence[Labelled]) -> list[dict[str, Any]]:
    """Tokens and label of each sentence, as the Trainer takes them."""
    encoded = tokenizer([text for _, text in sentences], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": LABELS.index(label)}
        for ids, (label, _) in zip(encoded, sentences, strict=True)
    ]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Part of the sentences that get their label."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def train(
    model: PreTrainedModel,
    tokenizer: Any,
    sentences: Sequence[Labelled],
    held_out: Sequence[Labelled],
    settings: dict[str, Any],
    resume: Path,
    save_every: int,
) -> None:
    """Train `model` in place, from the last checkpoint in `resume` if that is of the same settings.

    Of the checkpoints the one with the highest accuracy on `held_out` is kept.
    """
    record = resume / "settings.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != settings:
        print(f"{resume} is of a run with other settings; starting afresh")
        shutil.rmtree(resume)
    resume.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings), encoding="utf-8")
    options = TrainingArguments(
        str(resume),
        num_train_epochs=settings["epochs"],
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=64,
        learning_rate=settings["learning_rate"],
        weight_decay=0.01,
        bf16=cpu_features().multiplies_bfloat16,
        seed=settings["seed"],
        eval_strategy="steps",
        eval_steps=save_every,
        save_steps=save_every,
        logging_steps=save_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=False,
    )
    trainer = Trainer(
        model,
        options,
        train_dataset=examples(tokenizer, sentences),
        # Similar lengths together, so that little is padding.
        eval_dataset=sorted(examples(tokenizer, held_out), key=lambda example: len(example["input_ids"])),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(resume)))


def build(options: argparse.Namespace, resume: Path) -> Callable[[Path], None]:
    """What fills the output folder."""
    settings = {name: getattr(options, name) for name in SETTINGS}

    def write(folder: Path) -> None:
        began = time.monotonic()
        sentences, validation, test = review_split(review_sentences(download_review_archive()))
        tokenizer = AutoTokenizer.from_pretrained(minilm_directory())
        model = new_model(options.seed)
        train(model, tokenizer, sentences, validation, settings, resume, options.save_every)
        record = {
            **settings,
            "training_sentences": len(sentences),
            "validation_accuracy": label_accuracy(model, tokenizer, validation, max_length=MAX_LENGTH),
            "test_accuracy": label_accuracy(model, tokenizer, test, max_length=MAX_LENGTH),
            "test_sentences": len(test),
            "seconds_of_last_run": round(time.monotonic() - began),
        }
        write_trained(folder, model, tokenizer, record)

    return write


def main() -> None:
    options = arguments()
    output = options.output or cache_directory() / "minilm-sentiment"
    torch.set_num_threads(options.threads)
    resume = output.with_name(output.name + ".resume")
    train_once(output, resume, options.force, build(options, resume))


if __name__ == "__main__":
    main()
