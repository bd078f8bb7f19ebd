"""The table of what targets take, as documents show it."""

from __future__ import annotations

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.portability import TARGETS
from hf_quant.portability.facts import Part

_WIDTH = 512
_WORDS = {"exact": "yes", "container": "wider", "equivalent": "equivalent", "refused": "–"}


def _groups(bits: int, symmetric: bool = True) -> TensorScheme:
    return TensorScheme(bits=bits, symmetric=symmetric, granularity="group", group_size=128)


def _linear(weight: TensorScheme, given: TensorScheme | None = None, made_as: str = "linear") -> Part:
    return Part("m", "linear", _WIDTH, Scheme(weight, given), made_as)


_W8, _ROTATED = TensorScheme(bits=8), TensorScheme(bits=8, rotation=64)
_TOKEN = TensorScheme(bits=8, symmetric=False, granularity="token", dynamic=True)
_IN_GROUPS = TensorScheme(bits=8, granularity="group", group_size=128, dynamic=True)
_SIBLINGS = {"first": Scheme(_W8), "m": Scheme(_groups(4))}

ROWS: dict[str, Part] = {
    "8 bits per channel": _linear(_W8),
    "8 bits in groups": _linear(_groups(8)),
    "4 bits in groups, symmetric": _linear(_groups(4)),
    "4 bits in groups, asymmetric (`w4a16`)": _linear(_groups(4, symmetric=False)),
    "4 bits and inputs in groups (`int4`)": _linear(_groups(4, symmetric=False), _IN_GROUPS),
    "4 bits per channel": _linear(TensorScheme(bits=4)),
    "2 bits in groups": _linear(_groups(2)),
    "3 bits in groups": _linear(_groups(3)),
    "5, 6 or 7 bits in groups": _linear(_groups(6)),
    "16 bits": _linear(TensorScheme(bits=16)),
    "NF4": _linear(TensorScheme(format="nf4", bits=4, granularity="group", group_size=64)),
    "8 bits, inputs per token": _linear(_W8, _TOKEN),
    "8 bits, inputs per token, rotated (`int8`)": _linear(_ROTATED, _TOKEN),
    "8 bits, static inputs (`int8-static`)": _linear(_W8, TensorScheme(bits=8, symmetric=False, granularity="tensor")),
    "8 bits, symmetric static inputs": _linear(_W8, TensorScheme(bits=8, granularity="tensor")),
    "rotated weights (`w8a16`)": _linear(_ROTATED),
    "embedding of 8 bits": Part("m", "embedding", _WIDTH, Scheme(_W8), "embedding"),
    "head tied to it": Part("m", "head", _WIDTH, Scheme(_W8), owner="table"),
    "GPT-2's `Conv1D`, 8 bits": _linear(_W8, made_as="conv1d"),
    "experts, convolutions, LSTM, GRU": _linear(_W8, made_as="experts"),
    "query, key and value of unlike schemes": Part("m", "linear", _WIDTH, Scheme(_groups(4)), siblings=_SIBLINGS),
}
"""What a module may be, to an example of it."""


def markdown() -> str:
    """The table as Markdown: a row for each of `ROWS`, a column for each target."""
    lines = [["weights", *TARGETS], ["---"] * (1 + len(list(TARGETS)))]
    for name, part in ROWS.items():
        lines.append([name, *(_WORDS[TARGETS[target].verdict(part).kind] for target in TARGETS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
