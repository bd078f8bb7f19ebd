"""The article's table: sizes, speed-up and loss of accuracy in INT8 and INT4, beside what the article says.

    python -m benchmarks.article_table                                print what there is; sizes are computed
    python -m benchmarks.article_table --weigh                        write and weigh files of BERT-base and GPT-2
    python -m benchmarks.article_table --speed                        measure all speeds, on an idle machine
    python -m benchmarks.article_table --speed llama-70b --rounds 3   one of them anew
    python -m benchmarks.article_table --weigh-int4 llama-7b          write and weigh one INT4 file (18 GB of disk)
    python -m benchmarks.article_table --losses int8.json int4.json   with what `hf-quant evaluate` found

Results of measurements are kept in a file and printed by every later call. Shapes are those of the real models, weights
are random. Where a model does not fit, its speed is that of a few layers of true shape, with embedding and head, and
marked so; losses are those of smaller real models of the same family, and marked so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.article.losses import Key, losses, words
from benchmarks.article.rows import MEASURED_WHOLE, PRESETS, ROWS, Row
from benchmarks.article.sizes import FLOAT, computed, weighed
from benchmarks.article.speeds import speeds
from benchmarks.checkpoints import config_of
from hf_quant.demo.cache import cache_directory
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from hf_quant.evaluation.other_processes import DOUBTFUL
from hf_quant.evaluation.report import DropReport
from hf_quant.reporting.words import TASKS, bytes_, digits, percent

HEADER = ("model", "", "original", "size", "reduction", "speed-up", "loss of accuracy")


def parse() -> argparse.Namespace:
    """The command line."""
    shapes = [row.shape for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weigh", action="store_true", help=f"write and weigh the files of {', '.join(MEASURED_WHOLE)}"
    )
    parser.add_argument("--weigh-int4", choices=shapes, metavar="MODEL", help="write and weigh one INT4 file")
    parser.add_argument("--speed", nargs="*", choices=shapes, metavar="MODEL", help="measure speeds (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each model (default: %(default)s)")
    parser.add_argument("--losses", nargs="+", type=Path, default=[], metavar="FILE", help="reports of evaluations")
    parser.add_argument("--cache", type=Path, default=cache_directory() / "benchmarks", help="folder for models")
    parser.add_argument(
        "--json", type=Path, default=cache_directory() / "article.json", help="file for results (default: %(default)s)"
    )
    return parser.parse_args()


def measure(options: argparse.Namespace, kept: dict[str, Any]) -> None:
    """What was asked for, into `kept`, which is written after each step."""
    for row in ROWS:
        sizes = kept.setdefault("weighed", {}).setdefault(row.shape, {})
        if options.weigh and row.shape in MEASURED_WHOLE:
            sizes.update(weighed(row, options.cache))
        if options.weigh_int4 == row.shape:
            sizes.update(weighed(row, options.cache, ("int4",)))
        _keep(options.json, kept)
        if options.speed is not None and (row.shape in options.speed or not options.speed):
            found = speeds(row, options.cache, options.rounds)
            kept.setdefault("speeds", {})[row.shape] = {preset: entry.to_dict() for preset, entry in found.items()}
            _keep(options.json, kept)


def lines(row: Row, kept: dict[str, Any], lost: dict[Key, list[DropReport]]) -> list[tuple[str, ...]]:
    """The article's line, then one for each preset."""
    original, size, speed, loss = row.article
    table = [(row.title, "article, INT8", original, size, "75 %", speed, loss)]
    expected, found = computed(row), kept.get("weighed", {}).get(row.shape, {})
    for preset in PRESETS:
        report = kept.get("speeds", {}).get(row.shape, {}).get(preset)
        table.append(
            (
                "",
                preset,
                _size(FLOAT, expected, found),
                _size(preset, expected, found),
                percent(1 - expected[preset] / expected[FLOAT]),
                "not measured" if report is None else _speed(row, report),
                "; ".join(map(words, lost.get((row.family, preset), []))) or "not measured",
            )
        )
    return table


def _size(name: str, expected: dict[str, int], found: dict[str, int]) -> str:
    if name not in found:
        return f"{bytes_(expected[name])} (computed)"
    agrees = "agrees to the byte" if found[name] == expected[name] else f"computed: {expected[name]:,} bytes"
    return f"{bytes_(found[name])} (measured, {agrees})"


def _speed(row: Row, values: dict[str, Any]) -> str:
    report = BenchmarkReport.from_dict(values)
    ratios = [
        f"{TASKS[entry.task]} {entry.batch} x {entry.length}: {digits(entry.ratio.median)} x"
        for entry in report.speed_ups
    ]
    shown = ", ".join(ratios)
    return shown if row.layers is None else f"{shown} ({row.layers} of {config_of(row.shape).num_hidden_layers} layers)"


def _keep(file: Path, kept: dict[str, Any]) -> None:
    staging = file.with_name(f".{file.name}")
    staging.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    staging.replace(file)


def main() -> None:
    options = parse()
    kept = json.loads(options.json.read_text(encoding="utf-8")) if options.json.is_file() else {}
    lost = losses(options.losses)
    measure(options, kept)
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for row in ROWS:
        for line in lines(row, kept, lost):
            print(f"| {' | '.join(line)} |")
    for line in footnotes(kept, lost):
        print(f"\n{line}")


def footnotes(kept: dict[str, Any], lost: dict[Key, list[DropReport]]) -> list[str]:
    """What a reader of the table has to know."""
    notes = [
        "Sizes are of the weights' files, float32 where a model is not quantized. Computed ones are from the config "
        "alone; measured ones were written."
    ]
    reports = [entry for presets in kept.get("speeds", {}).values() for entry in presets.values()]
    for machine in sorted({f"{entry['machine']['cpu']}, {entry['threads']} threads" for entry in reports}):
        notes.append(
            f"Speed-ups are over float32 on {machine}, batch x tokens; true shapes, random weights. Of models that do "
            "not fit, as many layers as it says were measured, with embedding and head."
        )
    if lost:
        notes.append(
            "Losses are those of the smaller real models in brackets, of the same family: relative, with 95 % "
            "intervals; above zero is worse."
        )
    kept_notes = {note for entry in reports for note in entry["notes"] if "cores busy" not in note}
    notes += [f"Of a benchmark: {note}." for note in sorted(kept_notes)]
    busy = max((entry["other_cores"] for entry in reports), default=0.0)
    if busy > DOUBTFUL:
        notes.append(f"Other processes kept up to {busy:.1f} cores busy during the benchmarks: speed-ups may be off.")
    return notes


if __name__ == "__main__":
    main()
