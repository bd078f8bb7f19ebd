"""Which modules of a model a target takes, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_quant.config.name_ranges import in_short
from hf_quant.config.scheme import Scheme
from hf_quant.portability.facts import KINDS, Verdict

_WORDS = {
    "exact": "exact",
    "container": "in a wider container",
    "equivalent": "by an equivalent computation",
    "refused": "REFUSED",
}


@dataclass(frozen=True)
class PortabilityReport:
    """Report of what a target takes of a model, before anything is written.

    Args:
        target: Name of the target.
        runtime: What computes with what is exported.
        verdicts: One for each quantized module, in the order of the model.
        overrides: Module to the scheme that makes the model portable, None for float:
            ``HfQuantConfig(..., overrides=report.overrides)`` is a config whose model is taken.
        note: What could not be found out; empty if nothing.
    """

    target: str
    runtime: str
    verdicts: tuple[Verdict, ...]
    overrides: Mapping[str, Scheme | None] = field(default_factory=dict)
    note: str = ""

    @property
    def refused(self) -> tuple[Verdict, ...]:
        """Verdicts of modules that cannot be exported as they are."""
        return tuple(verdict for verdict in self.verdicts if verdict.kind == "refused")

    @property
    def is_portable(self) -> bool:
        """Whether no module is refused."""
        return not self.refused

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-ready dict: how many modules of each kind, and all that are not simply exact."""
        return {
            "target": self.target,
            "runtime": self.runtime,
            "modules": dict(Counter(verdict.kind for verdict in self.verdicts)),
            "verdicts": [
                {
                    "module": verdict.module,
                    "kind": verdict.kind,
                    "reason": verdict.reason,
                    **({"override": verdict.override, "scheme": _scheme(verdict)} if verdict.override else {}),
                }
                for verdict in self.verdicts
                if verdict.reason
            ],
            **({"note": self.note} if self.note else {}),
        }

    def __str__(self) -> str:
        counts = Counter(verdict.kind for verdict in self.verdicts)
        said = ", ".join(f"{counts[kind]} {_WORDS[kind]}" for kind in KINDS if counts[kind])
        lines = [f"{self.target} ({self.runtime}): {said or 'no quantized modules'}"]
        groups: dict[tuple[str, ...], list[str]] = {}
        for verdict in sorted(self.verdicts, key=lambda verdict: -KINDS.index(verdict.kind)):
            if verdict.reason:
                key = (_WORDS[verdict.kind], verdict.reason, verdict.override)
                groups.setdefault(key, []).append(verdict.module)
        for (word, reason, override), names in groups.items():
            fix = f"; ask for {override}" if override else ""
            lines.append(f"  {word}: {', '.join(in_short(names))}: {reason}{fix}")
        return "\n".join([*lines, *([self.note] if self.note else [])])


def _scheme(verdict: Verdict) -> dict[str, Any] | None:
    return None if verdict.scheme is None else verdict.scheme.to_dict()
