"""Quantization-aware training beside torchao's: the same model, data, steps and scheme; step time and accuracy.

MiniLM learns to tell favourable film reviews from others, from the pretrained encoder. Weights of all linears have 4
bits in symmetric groups, inputs 8 bits per token (torchao's int8-dynamic-activation, int4-weight). Subjects take turns,
step by step, on the same batches, so that a machine that is busy with other things is so for all of them alike; time is
that of the process. Accuracy is of what each computes in evaluation: codes and kernels here, fake quantization there.

Needs torchao beside hf_quant: `pip install --no-deps torchao`.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoTokenizer, DataCollatorWithPadding
from transformers.utils import logging

from benchmarks.train_sentiment import examples, new_model
from hf_quant import HfQuantConfig, Plan, Scheme, TensorScheme
from hf_quant.demo.packaged import minilm_directory
from hf_quant.demo.quality import label_accuracy
from hf_quant.demo.texts import download_review_archive, review_sentences, review_split
from hf_quant.evaluation.paired_shares import score_interval
from hf_quant.hardware.detect import cpu_name
from hf_quant.qat.options import QATOptions
from hf_quant.training.grid_groups import add_groups
from hf_quant.workflows.qat import convert, prepare

EXAMPLES = """examples:
  python -m benchmarks.qat_torchao                     200 steps of each
  python -m benchmarks.qat_torchao --steps 20 --test 200 --threads 1     a quick look
"""
FLOAT, LEARNED, RANGES, PEER = "float", "hf_quant, learned scales", "hf_quant, ranges", "torchao"
SUBJECTS = (FLOAT, LEARNED, RANGES, PEER)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    parser.add_argument("--steps", type=int, default=200, help="of each (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences of a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="falls to zero (default: %(default)s)")
    parser.add_argument("--group-size", type=int, default=128, help="of weights (default: %(default)s)")
    parser.add_argument("--test", type=int, help="sentences to measure accuracy on (default: all 2120)")
    parser.add_argument("--seed", type=int, default=0, help="of the head, batches and dropout (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    return parser.parse_args()


class Training:
    """One subject."""

    def __init__(self, subject: str, options: argparse.Namespace):
        self.subject = subject
        self.model: Any = new_model(options.seed)
        if subject in (LEARNED, RANGES):
            weight = TensorScheme(bits=4, granularity="group", group_size=options.group_size)
            inputs = TensorScheme(symmetric=False, granularity="token", dynamic=True)
            names = [name for name, module in self.model.named_modules() if type(module) is nn.Linear]
            plan = Plan(dict.fromkeys(names, Scheme(weight, inputs)))
            prepare(self.model, HfQuantConfig(plan=plan), QATOptions("lsq" if subject == LEARNED else "minmax"))
        elif subject == PEER:
            prepare_torchao(self.model, options.group_size)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.learning_rate, weight_decay=0.01)
        if subject == LEARNED:
            add_groups(self.optimizer, self.model, None, options.learning_rate)
        steps = options.steps
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / steps)

    def step(self, batch: dict[str, torch.Tensor], seed: int) -> tuple[float, float]:
        """Processor time in seconds, and the loss."""
        torch.manual_seed(seed)  # dropout
        began = time.process_time()
        loss = self.model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.process_time() - began
        self.scheduler.step()
        return seconds, loss.item()


def prepare_torchao(model: nn.Module, group_size: int) -> None:
    """The same scheme by torchao, in place."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    activations = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    weights = IntxFakeQuantizeConfig(torch.int4, group_size=group_size, is_symmetric=True)
    quantize_(model, QATConfig(activation_config=activations, weight_config=weights, step="prepare"))


def answers(model: Any, tokenizer: Any, test: list[tuple[str, str]]) -> list[int]:
    """Of each sentence 1 where the label is right."""
    model.eval()
    return [round(label_accuracy(model, tokenizer, [each], max_length=64)) for each in tqdm(test, desc="Testing")]


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    tokenizer = AutoTokenizer.from_pretrained(minilm_directory())
    train, _, test = review_split(review_sentences(download_review_archive()))
    rows, collate = examples(tokenizer, train), DataCollatorWithPadding(tokenizer)
    trainings = [Training(subject, options) for subject in options.subjects]
    seconds: dict[str, list[float]] = {subject: [] for subject in options.subjects}
    losses: dict[str, list[float]] = {subject: [] for subject in options.subjects}
    generator = torch.Generator().manual_seed(options.seed)
    for step in tqdm(range(options.steps), desc="Steps"):
        chosen = torch.randint(len(rows), (options.batch_size,), generator=generator).tolist()
        batch = dict(collate([rows[index] for index in chosen]))
        for training in trainings:
            taken, loss = training.step(batch, step)
            seconds[training.subject].append(taken)
            losses[training.subject].append(loss)
    found = {}
    for training in trainings:
        if training.subject in (LEARNED, RANGES):
            convert(training.model)
        found[training.subject] = answers(training.model, tokenizer, test[: options.test])
    print(f"{cpu_name()}, {options.threads} threads; torchao {version('torchao')}; {options.steps} steps\n")
    print("| | processor time of a step, s | of torchao's | loss, last tenth | accuracy | against torchao |")
    print("|---|---|---|---|---|---|")
    for subject in options.subjects:
        times, last = seconds[subject][1:], losses[subject][-max(1, options.steps // 10) :]
        ratio = against = ""
        if PEER in seconds and subject != PEER:
            pairs = zip(times, seconds[PEER][1:], strict=True)
            ratio = f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"
            pairs = list(zip(found[subject], found[PEER], strict=True))
            better, worse = pairs.count((1, 0)), pairs.count((0, 1))
            low, high = score_interval(better, worse, len(pairs), 0.95)
            difference = (better - worse) / len(pairs)
            against = f"{100 * difference:+.2f} pt ({100 * low:+.2f} to {100 * high:+.2f})"
        accuracy = sum(found[subject]) / len(found[subject])
        print(
            f"| {subject} | {statistics.median(times):.3f} | {ratio} | {statistics.mean(last):.4f} | {accuracy:.4f} | "
            f"{against} |"
        )


if __name__ == "__main__":
    main()
