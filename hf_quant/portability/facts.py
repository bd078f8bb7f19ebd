"""What a target takes of a module's scheme, as rules; and what it says of one module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hf_quant.config.scheme import Scheme

KINDS = ("exact", "container", "equivalent", "refused")
"""Same codes, computed with alike; same numbers, in a container that is larger or finer; same numbers, by another
computation; not to be had. In the order in which the last one that holds for a module is what is said of it."""
_MOST_FIXES = 8


@dataclass(frozen=True)
class Part:
    """A quantized module, as targets look at it.

    Args:
        name: Name of the module.
        kind: ``"linear"``, ``"embedding"`` or ``"head"``, as in `config.plan.Candidate`.
        width: Numbers in a row of the weight.
        scheme: Formats of weight and input, group size settled.
        made_as: What the float module is: ``"linear"``, ``"conv1d"``, ``"embedding"``, ``"derived"`` (a class of the
            model's own), or, of an opened one, ``"experts"``, ``"convolution"`` or ``"recurrent"``.
        owner: Name of the module that its weight belongs to; empty where it is its own.
        siblings: Modules of the same input and parent, itself included, to their schemes, None where float; in the
            order of the model. Empty where they are not known, or there are none.
        dimensions: Dimensions of its input; None where that is not known.
    """

    name: str
    kind: str
    width: int
    scheme: Scheme
    made_as: str = "linear"
    owner: str = ""
    siblings: Mapping[str, Scheme | None] = field(default_factory=dict)
    dimensions: int | None = None


class Rule(NamedTuple):
    """One fact about a target.

    Args:
        name: Short name of what it is about, which a user may accept.
        applies: Whether it holds for a module.
        kind: One of `KINDS`.
        reason: Why, in a sentence.
        fix: Of a refusal: the scheme to take instead, which other rules may still refuse; None: float.
        advice: Of a refusal: what to ask for, in words.
        may_be_accepted: Of a refusal: whether the module can be written all the same, for who knows what reads it.
    """

    name: str
    applies: Callable[[Part], bool]
    kind: str
    reason: str
    fix: Callable[[Part], Scheme | None] = lambda part: None
    advice: str = "keep it float"
    may_be_accepted: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a target says of one module.

    Args:
        module: Name of the module.
        kind: One of `KINDS`.
        reason: Why it is not exact, or what to know; may be empty.
        override: Of a refusal: what to ask for instead, in words.
        scheme: Of a refusal: the scheme that is nearest and not refused; None: float.
        rules: Names of the rules that led to it.
    """

    module: str
    kind: str
    reason: str = ""
    override: str = ""
    scheme: Scheme | None = None
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """A target: what it takes.

    Args:
        summary: What computes with what is exported, for a sentence.
        rules: All that is not exact. What no rule is about is.
        fuses: Whether linears of one input, such as query, key and value, are computed as one, with one scheme.
    """

    summary: str
    rules: tuple[Rule, ...]
    fuses: bool = False

    def verdict(self, part: Part, accepted: Collection[str] = ()) -> Verdict:
        """What is said of a module.

        Args:
            part: The module.
            accepted: Names of rules whose refusal is not to count.
        """
        found = [
            rule for rule in self.rules if rule.applies(part) and not (rule.may_be_accepted and rule.name in accepted)
        ]
        if not found:
            return Verdict(part.name, "exact")
        kind = max((rule.kind for rule in found), key=KINDS.index)
        if kind == "refused":
            found = [rule for rule in found if rule.kind == kind]
        texts = "; ".join(dict.fromkeys(rule.reason for rule in found if rule.reason))
        names = tuple(rule.name for rule in found)
        if kind != "refused":
            return Verdict(part.name, kind, texts, rules=names)
        advice = ", ".join(dict.fromkeys(rule.advice for rule in found))
        return Verdict(part.name, kind, texts, advice, self.portable(part, accepted), names)

    def portable(self, part: Part, accepted: Collection[str] = ()) -> Scheme | None:
        """The scheme of a module, changed as little as the target asks for; None: float."""
        for _ in range(_MOST_FIXES):
            refusal = next(
                (
                    rule
                    for rule in self.rules
                    if rule.kind == "refused"
                    and rule.applies(part)
                    and not (rule.may_be_accepted and rule.name in accepted)
                ),
                None,
            )
            if refusal is None:
                return part.scheme
            scheme = refusal.fix(part)
            if scheme is None or scheme == part.scheme:
                return None
            part = replace(part, scheme=scheme, siblings={})  # which are changed alike
        return None
