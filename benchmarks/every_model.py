"""Every model type of the installed Transformers, small and with random weights: is it quantized right, or refused?

    python -m benchmarks.every_model --json every_model.json                    # all types; goes on where it stopped
    python -m benchmarks.every_model --types llama bert --presets int8 int4
    python -m benchmarks.every_model --limit 60

For each type and preset: quantized in memory and on the fly agree; `hf_quant.check` finds it right; it agrees with its
own `dequantize()` (within the bound of `hf_quant.check`: 1e-3 where weights alone are quantized, else also a multiple
of what rounding inputs changes); saved and reloaded it gives the same bits, and generates the same. A result is
*right*, *nothing* to quantize, *refused* with a typed error before work, *wrong*, *crashed*, or *not built* where no
small float model of the type runs. Types run in processes of their own, a few in each, with limits of memory and time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_TOGETHER = 24
CLASSES = ("right", "nothing", "refused", "wrong", "crashed", "not built")

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
    parser.add_argument("--presets", nargs="+", default=["int8", "w4a16"])
    parser.add_argument("--limit", type=int, help="number of types to try")
    parser.add_argument("--json", type=Path, help="record to go on from and to write to")
    parser.add_argument("--seconds", type=int, default=30, help="longest time for a preset of a type")
    parser.add_argument("--gigabytes", type=float, default=6.0, help="most memory of a process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options)
    results: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        results = json.loads(options.json.read_text(encoding="utf-8"))
    done = {(each["type"], each["preset"]) for each in results}
    types = (options.types or every_type())[: options.limit]
    missing = [each for each in types if any((each, preset) not in done for preset in options.presets)]
    results = [each for each in results if each["type"] not in missing or each["preset"] not in options.presets]
    for found in run(missing, options):
        results += found
        for each in found:
            print(f"{each['type']:30} {each['preset']:8} {each['class']:10} {each.get('error', '')[:90]}", flush=True)
        if options.json is not None:
            options.json.write_text(
                "[\n" + ",\n".join(json.dumps(each) for each in results) + "\n]\n", encoding="utf-8"
            )
    print(table([each for each in results if each["type"] in types and each["preset"] in options.presets]))


def every_type() -> list[str]:
    """All types with a config in Transformers, the common ones first."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return [
        *(each for each in COMMON if each in CONFIG_MAPPING_NAMES),
        *sorted(CONFIG_MAPPING_NAMES.keys() - {*COMMON}),
    ]


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
            error = f"process ended: killed, out of memory or stuck for more than {options.seconds} s"
            yield [
                {"type": batch[finished], "preset": preset, "class": "crashed", "error": error}
                for preset in options.presets
            ]
            finished += 1
        del waiting[:finished]


def _process(batch: list[str], options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    command = [sys.executable, "-m", "benchmarks.every_model", "--worker", "--seconds", str(options.seconds)]
    command += ["--gigabytes", str(options.gigabytes), "--presets", *options.presets, "--types", *batch]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    process = subprocess.Popen(
        command, cwd=_ROOT, env={**os.environ, **quiet}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        for _ in batch:
            # The limits of a type's float model and of each preset, and the time to start.
            limit = options.seconds * (len(options.presets) + 1) + 60
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
    os.nice(5)
    limit = int(options.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever models print
    from benchmarks.model_trial import trial

    for each in options.types:
        print(json.dumps(trial(each, options.presets, options.seconds)), file=answers, flush=True)


def table(results: list[dict[str, Any]]) -> str:
    """Numbers of results by preset and class, and all that is not right."""
    lines = []
    for preset in dict.fromkeys(each["preset"] for each in results):
        counts = Counter(each["class"] for each in results if each["preset"] == preset)
        lines.append(f"{preset:8} " + "  ".join(f"{name} {counts[name]}" for name in CLASSES))
    failures = sorted((e for e in results if e["class"] in CLASSES[2:]), key=lambda e: CLASSES.index(e["class"]))
    for each in failures:
        what = each.get("error") or f"{each.get('wrong') or ''} {_figures(each)}"
        lines.append(f"{each['class']:9} {each['type']:28} {each['preset']:6} {each.get('stage', ''):10} {what}")
    for each in results:
        if each["class"] == "right" and each.get("left_float"):
            lines.append(f"right, but {each['type']:24} {each['preset']:6} {each['left_float']}")
    return "\n".join(lines)


def _figures(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in result.items() if isinstance(value, float))


if __name__ == "__main__":
    main()
