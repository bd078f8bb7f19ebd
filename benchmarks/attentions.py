"""Attention as one native call, against `scaled_dot_product_attention`, both in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch.nn import functional

from benchmarks.case import Case, Suite
from benchmarks.linears import copies_of
from benchmarks.shapes import HEADS, ROWS
from benchmarks.timing import cycle

_attention_op = torch.ops.hf_quant.native_attention.default
_KEYS = 512
"""Keys that a single query sees; more queries see one another, causally."""


def cases(op: str, shape: str, rows: Sequence[int], memory: int) -> Iterator[Case]:
    """`op` with heads as in `shape`: ``heads/kv_headsxwidth``."""
    head_counts, last = shape.split("x")
    heads, kv_heads, width = (*map(int, head_counts.split("/")), int(last))
    no_mask = torch.empty((), dtype=torch.bool)
    for queries in rows:
        keys, causal = (_KEYS, False) if queries == 1 else (queries, True)
        query, key = torch.randn(1, heads, queries, width), torch.randn(1, kv_heads, keys, width)
        copies = [(key.clone(), torch.randn_like(key)) for _ in range(copies_of(2 * key.nbytes, memory))]
        attend = partial(functional.scaled_dot_product_attention, is_causal=causal, enable_gqa=heads != kv_heads)
        yield Case(
            op=op,
            shape=shape,
            rows=queries,
            scheme=f"FP32, {keys} keys",
            run=cycle([partial(_attention_op, query, *pair, no_mask, width**-0.5, causal) for pair in copies]),
            baseline=cycle([partial(attend, query, *pair) for pair in copies]),
            read=2 * key.nbytes,
            operations=4 * heads * width * (queries * (queries + 1) // 2 if causal else keys),
        )


SUITE = Suite(ops=("attention",), shapes=HEADS, cases=cases, rows=ROWS)
