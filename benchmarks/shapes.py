"""Shapes of what models compute: width x channels of linears, and so on."""

from __future__ import annotations

LINEARS: dict[str, tuple[str, ...]] = {
    "BERT-base": ("768x768", "768x3072", "3072x768"),
    "GPT-2": ("768x2304", "768x768", "768x3072", "3072x768", "768x50257"),
    "SmolLM2-135M": ("576x576", "576x192", "576x1536", "1536x576", "576x49152"),
    "Llama-1.1B": ("2048x2048", "2048x256", "2048x5632", "5632x2048", "2048x32000"),
    "squares": ("2048x2048", "3072x3072", "4096x4096"),
}
"""Inputs x outputs."""

MLPS: dict[str, str] = {"768x3072": "gelu", "576x1536": "swiglu", "2048x5632": "swiglu"}
"""Width x inner width of feed-forward blocks, to what is between their products."""

TABLES = ("50257x768", "49152x576", "32000x2048")
"""Rows x width of embeddings."""

NORMS = ("576", "768", "2048")

HEADS = ("12/12x64", "9/3x64", "32/4x64")
"""Heads / heads of keys and values x width of a head."""

ROWS = (1, 8, 32, 128, 512, 2048)
"""Tokens."""

MOST_ROWS_OF_A_HEAD = 32
"""A language model's head is asked for the last positions only."""

QUICK_ROWS = (1, 8, 128)
QUICK = ("768x3072", "2048x2048", "32000x2048", "2048", "12/12x64")
"""Shapes of a quick look, and of instruction sets below the machine's best."""


def linear_shapes() -> list[str]:
    """Every shape of `LINEARS` once."""
    return list(dict.fromkeys(shape for shapes in LINEARS.values() for shape in shapes))


def sizes(shape: str) -> tuple[int, int]:
    """The two numbers of ``AxB``."""
    first, second = shape.split("x")
    return int(first), int(second)
