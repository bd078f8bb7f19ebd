"""Results of a sweep over model types, in tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

CLASSES = RIGHT, NOTHING, REFUSED, WRONG, CRASHED, NOT_BUILT = (
    *("right", "nothing", "refused", "wrong", "crashed", "not built"),
)
_REASONS = {
    "a package is missing": ("ImportError", "ModuleNotFoundError"),
    "too large": ("MemoryError",),
    "no inputs found": ("no inputs", "EvaluationError"),
    "out of time": ("OutOfTime", "process ended"),
    "not saved and loaded the same by Transformers": (
        "ValueError: Transformers does not",
        "ValueError: the float model",
    ),
}
"""Why a type is not built, to how its errors begin; any other is raised when its config or model is made."""


def table(results: list[dict[str, Any]]) -> str:
    """Numbers of results by preset, class and family, reasons for what is not built, and all that is not right."""
    lines = []
    for preset in dict.fromkeys(each["preset"] for each in results):
        counts = Counter(each["class"] for each in results if each["preset"] == preset)
        built = sum(counts.values()) - counts["not built"]
        lines.append(
            f"{preset:11} types {sum(counts.values())}  built {built}  "
            + "  ".join(f"{name} {counts[name]}" for name in CLASSES)
        )
    lines += ["", *_by_family(results), ""]
    unbuilt = {each["type"]: each.get("error", "") for each in results if each["class"] == "not built"}
    reasons = Counter(map(reason, unbuilt.values()))
    lines += [f"not built: {number:3} {name}" for name, number in reasons.most_common()]
    for name, error in sorted(unbuilt.items(), key=lambda each: (reason(each[1]), each[0])):
        lines.append(f"not built {name:36} {error}")
    failures = sorted((e for e in results if e["class"] in CLASSES[2:5]), key=lambda e: CLASSES.index(e["class"]))
    for each in failures:
        what = each.get("error") or f"{each.get('wrong') or ''} {_figures(each)}"
        lines.append(f"{each['class']:9} {each['type']:28} {each['preset']:11} {each.get('stage', ''):10} {what}")
    for each in results:
        if each["class"] == "right" and each.get("left_float"):
            lines.append(f"right, but {each['type']:24} {each['preset']:11} {each['left_float']}")
    return "\n".join(lines)


def reason(error: str) -> str:
    """The class of an error because of which a type is not built."""
    return next(
        (name for name, starts in _REASONS.items() if error.startswith(starts)), "no small config makes a model"
    )


def _by_family(results: list[dict[str, Any]]) -> list[str]:
    families = Counter(each.get("family", "unknown") for each in results)
    header = "family".ljust(24) + "".join(f"{name:>10}" for name in CLASSES)
    rows = []
    for family, _ in families.most_common():
        counts = Counter(each["class"] for each in results if each.get("family", "unknown") == family)
        rows.append(family.ljust(24) + "".join(f"{counts[name]:>10}" for name in CLASSES))
    return [f"{header}   (types times presets)", *rows]


def _figures(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in result.items() if isinstance(value, float))
