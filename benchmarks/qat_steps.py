"""What a training step costs with quantization in the loop, beside one without: processor time and peak memory.

Subjects take turns, step by step, so that a machine that is busy with other things is so for all of them alike, and
time is that of the process. Memory is that of a process of its own for each subject. MiniLM as a classifier.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from hf_quant import HfQuantConfig, Scheme, TensorScheme
from hf_quant.demo.packaged import minilm_directory
from hf_quant.workflows.qat import prepare

EXAMPLES = """examples:
  python -m benchmarks.qat_steps                       all subjects, in float32
  python -m benchmarks.qat_steps --bf16 --threads 1    under autocast
  python -m benchmarks.qat_steps --subjects float int4 --steps 3 --batch-size 4 --tokens 16
"""
PER_TOKEN = TensorScheme(symmetric=False, granularity="token", dynamic=True)
SUBJECTS: dict[str, HfQuantConfig | None] = {
    "float": None,
    "int8": HfQuantConfig("int8"),
    "int4": HfQuantConfig("int4"),
    "W4A8-channel": HfQuantConfig(scheme=Scheme(TensorScheme(bits=4), PER_TOKEN)),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    parser.add_argument("--bf16", action="store_true", help="under bfloat16 autocast")
    parser.add_argument("--steps", type=int, default=7, help="of each, after one that warms up (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=64, help="of each sequence (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--memory-of", choices=SUBJECTS, help=argparse.SUPPRESS)
    return parser.parse_args()


class Training:
    """A model and its optimizer."""

    def __init__(self, subject: str, options: argparse.Namespace):
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(minilm_directory())
        config = SUBJECTS[subject]
        if config is not None:
            prepare(self.model, config)
        self.model.train()
        # No step may move a learned scale far: what is measured is time.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-7)
        self.bf16 = options.bf16
        chance = torch.Generator().manual_seed(0)
        shape = (options.batch_size, options.tokens)
        self.batch = {
            "input_ids": torch.randint(1000, 20000, shape, generator=chance),
            "labels": torch.randint(0, 2, shape[:1], generator=chance),
        }

    def step(self) -> float:
        """One step; its processor time in seconds."""
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.model(**self.batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - began


def peak_memory(subject: str) -> int:
    """Peak resident bytes of a process that trains for three steps."""
    command = [sys.executable, "-m", "benchmarks.qat_steps", *sys.argv[1:], "--memory-of", subject]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        training = Training(options.memory_of, options)
        for _ in range(3):
            training.step()
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
        return
    peaks = {subject: peak_memory(subject) for subject in options.subjects}
    trainings = {subject: Training(subject, options) for subject in options.subjects}
    seconds: dict[str, list[float]] = {subject: [] for subject in trainings}
    for turn in range(options.steps + 1):
        for subject, training in trainings.items():
            taken = training.step()
            if turn:
                seconds[subject].append(taken)
    first = options.subjects[0]
    print("| | processor time of a step, s | ratio | peak memory, MB | ratio |\n|---|---|---|---|---|")
    for subject in options.subjects:
        median, peak = statistics.median(seconds[subject]), peaks[subject]
        ratio = statistics.median(a / b for a, b in zip(seconds[subject], seconds[first], strict=True))
        print(f"| {subject} | {median:.3f} | {ratio:.2f} | {peak / 1e6:.0f} | {peak / peaks[first]:.2f} |")


if __name__ == "__main__":
    main()
