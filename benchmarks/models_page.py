"""docs/models.md: which families of models are quantized, how much of each, and what was found of them.

    python -m benchmarks.models_page

It is made of two records: of `benchmarks.every_model`, what was right, and of `benchmarks.model_parts`, what of a model
is quantized and what stays float.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.model_parts import MOST_EXPERTS, PARTS, SORTS, TRIALS
from benchmarks.model_results import CLASSES, NOT_BUILT, RIGHT

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
LITTLE = 0.02
"""Share of the weights up to which what stays float is not worth a row."""
_USUAL = ("biases of quantized modules", "normalisation: few weights, sensitive")
_TITLES = {
    "encoders": "Text encoders",
    "decoders": "Decoders",
    "encoder-decoders": "Encoder-decoders",
    "vision": "Vision",
    "audio": "Audio",
    "multimodal": "Several kinds of input",
    "others": "Other inputs",
}
_PLURALS = {
    "linear": "linears",
    "embedding": "embeddings",
    "expert": "experts",
    "recurrent": "recurrent layers",
    "convolution": "convolutions",
}
_NOT_BUILT = (
    ("no model class has this config", "configs of parts, for which Transformers has no class of their own"),
    (r"(requires|needs) .*librar|No module named", "a package that is not installed is needed"),
    (r"^MemoryError", "too many parameters even when shrunk"),
    (r"^no inputs|are known from its config", "no inputs are known that the small model takes"),
    (r"loaded|its own file", "Transformers does not read back what it saved"),
    ("", "the shrunk config makes no model that runs"),
)
"""Expressions for errors to what is said of them; the first that is found counts."""

_HEAD = f"""# Models

What was tried of the model types of Transformers, made by `python -m benchmarks.models_page`; do not edit it by hand.

For each type, `python -m benchmarks.every_model` makes a small model with random weights, and a preset is *right* if
all of this holds: quantized in memory and while loading, the model is the same; `hf_quant.check` finds each module and
the outputs to be what the weights stand for; so does the model's own `dequantize()`; saved and reloaded, it is the same
to the last bit; where it generates, it then generates the same. *Refused* is a typed error before any work, and *not
built* a type of which no small float model could be made or run, so that nothing is known of it.

What of a type is quantized was found by `python -m benchmarks.model_parts`, of a model of the size that its config has
by default, or of eight of its layers where there are more than {MOST_EXPERTS:,} experts: percentages are of the bytes
that all weights take as floats. Norms, biases and routers stay float in every model. `hf_quant.inspect(model)` says the
same of yours, module by module.
"""


def page(trials: Iterable[Mapping[str, Any]], parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The page as Markdown.

    Args:
        trials: Results of `benchmarks.every_model`, one for each type and preset.
        parts: Type to what `benchmarks.model_parts` found of it.
    """
    by_type: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for each in trials:
        by_type[each["type"]][each["preset"]] = each
    built = {name: found for name, found in by_type.items() if any(f["class"] != NOT_BUILT for f in found.values())}
    lines = [_HEAD, *_summary(by_type, built, parts)]
    for sort in (*SORTS, None):
        names = sorted(name for name in built if parts.get(name, {}).get("sort") == sort)
        if names:
            lines += _section(_TITLES.get(sort or "", "Not sorted"), names, built, parts)
    left = {name: next(iter(found.values())) for name, found in by_type.items() if name not in built}
    return "\n".join([*lines, *_not_built(left)]) + "\n"


def _summary(by_type: Mapping[str, Any], built: Mapping[str, Any], parts: Mapping[str, Any]) -> list[str]:
    presets = list(dict.fromkeys(preset for found in by_type.values() for preset in found))
    lines = [f"| of {len(by_type)} types | " + " | ".join(CLASSES) + " |", "|---" * (len(CLASSES) + 1) + "|"]
    for preset in presets:
        counts = Counter(found[preset]["class"] for found in by_type.values() if preset in found)
        lines.append(f"| `{preset}` | " + " | ".join(str(counts[name]) for name in CLASSES) + " |")
    shares = [sum(parts[name]["quantized"].values()) for name in built if "quantized" in parts.get(name, {})]
    lines += ["", "| weights that are quantized | types |", "|---|---|"]
    below = 1.01
    for least in (0.99, 0.95, 0.5, 0.0):
        name = f"at least {_percent(least)}" if least else "less"
        lines.append(f"| {name} | {sum(least <= share < below for share in shares)} |")
        below = least
    return [*lines, ""]


def _section(
    title: str, names: list[str], built: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    plain: dict[str, list[str]] = defaultdict(list)
    rows = []
    for name in names:
        found, part = built[name], parts.get(name, {})
        verdict, floats = _verdict(found), _floats(part)
        if verdict == RIGHT and "quantized" in part and not floats:
            plain[_kinds(part)].append(f"`{name}`")
        else:
            shares = ", ".join(f"{_PLURALS[kind]} {_percent(part['quantized'][kind])}" for kind in _quantized(part))
            stays = "; ".join(f"{_percent(share)} {reason}" for reason, share in floats.items())
            unknown = "little" if "quantized" in part else "not known"
            rows.append(f"| `{name}` | {shares or unknown} | {stays or 'little'} | {verdict} |")
    lines = [f"## {title}", ""]
    if plain:
        lines += [f"Right in all presets, and at least {_percent(1 - LITTLE)} quantized but for norms and biases:", ""]
        lines += [f"- {kinds} ({len(each)}): {', '.join(each)}" for kinds, each in sorted(plain.items())]
        lines += [""]
    if rows:
        lines += ["| type | quantized | stays float | presets |", "|---|---|---|---|", *rows, ""]
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _quantized(part: Mapping[str, Any]) -> list[str]:
    """Kinds that are a part worth a word, in the usual order."""
    return [kind for kind in _PLURALS if part.get("quantized", {}).get(kind, 0) >= 0.001]


def _kinds(part: Mapping[str, Any]) -> str:
    *first, last = [_PLURALS[kind] for kind in _quantized(part)]
    return f"{', '.join(first)} and {last}" if first else last


def _floats(part: Mapping[str, Any]) -> dict[str, float]:
    """Reasons that are worth a row, those of the usual norms and biases left out; empty where all others are little."""
    found = {reason: share for reason, share in part.get("float", {}).items() if reason not in _USUAL}
    return {reason: share for reason, share in found.items() if share >= 0.005} if sum(found.values()) > LITTLE else {}


def _verdict(found: Mapping[str, Mapping[str, Any]]) -> str:
    said = {preset: _said(each) for preset, each in found.items()}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"`{preset}` {what}" for preset, what in said.items())


def _said(result: Mapping[str, Any]) -> str:
    if result["class"] in (RIGHT, "nothing"):
        return RIGHT if result["class"] == RIGHT else "nothing to quantize"
    why = result.get("error") or f"at {result['stage']}"
    return f"{result['class']}: {why}".replace("|", "\\|")


def _not_built(left: Mapping[str, Mapping[str, Any]]) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, result in sorted(left.items()):
        said = next(words for pattern, words in _NOT_BUILT if re.search(pattern, result.get("error", "")))
        groups[said].append(f"`{name}`")
    lines = ["## Not built", ""]
    return lines + [
        f"- {said} ({len(groups[said])}): {', '.join(groups[said])}" for _, said in _NOT_BUILT if groups[said]
    ]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    trials, parts = (json.loads(path.read_text(encoding="utf-8")) for path in (TRIALS, PARTS))
    options.output.write_text(page(trials, parts), encoding="utf-8")


if __name__ == "__main__":
    main()
