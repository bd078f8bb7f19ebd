"""Every model type of the installed Transformers, small and with random weights: is it quantized right, or refused?

    python -m benchmarks.every_model --json every_model.json                    # all types; goes on where it stopped
    python -m benchmarks.every_model --types llama bert --presets int8 int4
    python -m benchmarks.every_model --limit 60 --hidden 96 --seed 1            # others of another size, other weights
    python -m benchmarks.every_model --json every_model.json --summary          # only what the record says

For each type and preset: quantized in memory and on the fly agree; `hf_quant.check` finds it right; it agrees with its
own `dequantize()` (within the bound of `hf_quant.check`: 1e-3 where weights alone are quantized, else also a multiple
of what rounding inputs changes); saved and reloaded it gives the same bits, and generates the same. A result is
*right*, *nothing* to quantize, *refused* with a typed error before work, *wrong*, *crashed*, or *not built* where no
small float model of the type runs. Types run in processes of their own, a few in each, with limits of memory and time.

A type is what `CONFIG_MAPPING` lists and has a class: one in an auto mapping of models, or a `PreTrainedModel` whose
`config_class` it is. What else `CONFIG_MAPPING` lists is a part that only exists inside another model. Types that need
timm are built where it and torchvision are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.model_results import table

_ROOT = Path(__file__).parents[1]
_TOGETHER = 24

COMMON = """
llama qwen2 qwen3 mistral gemma gemma2 gemma3_text gemma3 phi phi3 gpt2 gpt_neo gpt_neox gptj opt bloom falcon mpt
codegen stablelm starcoder2 gpt_bigcode olmo olmo2 olmo3 cohere cohere2 granite glm glm4 smollm3 internlm3 exaone4
mixtral qwen2_moe qwen3_moe gpt_oss deepseek_v2 deepseek_v3 olmoe phimoe granitemoe jamba mamba mamba2 qwen3_next
llama4_text bert roberta distilbert albert electra deberta deberta-v2 modernbert xlm-roberta camembert mobilebert mpnet
longformer big_bird t5 mt5 bart mbart pegasus marian led umt5 xlnet whisper wav2vec2 hubert vit clip siglip qwen2_vl
qwen2_5_vl llava
""".split()  # noqa: SIM905
"""Types that are tried first: those that are most used."""


def main() -> None:
    """Run what is missing of the record, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", help="model types; all of Transformers unless given")
    parser.add_argument("--presets", nargs="+", default=["int8", "int8-static", "int4", "w4a16"])
    parser.add_argument("--limit", type=int, help="number of types to try")
    parser.add_argument("--every", type=int, default=1, help="try only every so many of the types, for a sample")
    parser.add_argument("--hidden", type=int, default=64, help="width of models, a multiple of 32")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and inputs")
    parser.add_argument("--json", type=Path, help="record to go on from and to write to")
    parser.add_argument("--again", action="store_true", help="also try what is in the record")
    parser.add_argument("--summary", action="store_true", help="try nothing, print the record")
    parser.add_argument("--seconds", type=int, default=30, help="longest time of a processor for a preset of a type")
    parser.add_argument("--gigabytes", type=float, default=6.0, help="most memory of a process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options)
    results: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        results = json.loads(options.json.read_text(encoding="utf-8"))
    types = (options.types or every_type())[:: options.every][: options.limit]
    done = set() if options.again else {(each["type"], each["preset"]) for each in results}
    missing = [each for each in types if any((each, preset) not in done for preset in options.presets)]
    started = time.monotonic()
    for number, found in enumerate(run([] if options.summary else missing, options), 1):
        new = {(each["type"], each["preset"]) for each in found}
        results = [each for each in results if (each["type"], each["preset"]) not in new] + found
        minutes = (time.monotonic() - started) / 60
        left = minutes / number * (len(missing) - number)
        for each in found:
            what = f"{each['type']:30} {each['preset']:11} {each['class']:10} {each.get('error', '')[:90]}"
            print(f"[{number}/{len(missing)}, {minutes:.0f} min, {left:.0f} left] {what}", flush=True)
        if options.json is not None:
            options.json.write_text(
                "[\n" + ",\n".join(json.dumps(each) for each in results) + "\n]\n", encoding="utf-8"
            )
    print(table([each for each in results if each["type"] in types and each["preset"] in options.presets]))


def every_type() -> list[str]:
    """All types with a class in Transformers, the common ones first."""
    from benchmarks.model_classes import every_type as having_a_class

    types = having_a_class()
    return [*(each for each in COMMON if each in types), *sorted({*types} - {*COMMON})]


def run(types: list[str], options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Results of types as they come, a list for each type."""
    waiting = list(types)
    while waiting:
        batch = waiting[:_TOGETHER]
        finished = 0
        for found in _process(batch, options):
            yield found
            finished += 1
        if finished < len(batch):  # the process ended, or was ended, at this one
            error = "process ended: killed, out of memory or stuck"
            yield [
                {"type": batch[finished], "preset": preset, "class": "crashed", "error": error}
                for preset in options.presets
            ]
            finished += 1
        del waiting[:finished]


def _process(batch: list[str], options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    command = [sys.executable, "-m", "benchmarks.every_model", "--worker"]
    for name in ("seconds", "gigabytes", "hidden", "seed"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--presets", *options.presets, "--types", *batch]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    process = subprocess.Popen(
        command, cwd=_ROOT, env={**os.environ, **quiet}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        for _ in batch:
            # The limits of a type's float model and of each preset, on a machine with others, and the time to start.
            limit = 4 * options.seconds * (len(options.presets) + 1) + 60
            ready, _, _ = select.select([process.stdout], [], [], limit)
            line = process.stdout.readline() if ready else ""
            if not line:
                return
            yield json.loads(line)
    finally:
        process.kill()
        process.wait()


def work(options: argparse.Namespace) -> None:
    """Try types in this process, a line of JSON on stdout for each."""
    os.nice(1)
    limit = int(options.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever models print
    from benchmarks.model_trial import trial

    for each in options.types:
        found = trial(each, options.presets, options.seconds, options.hidden, options.seed)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
