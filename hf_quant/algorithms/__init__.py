"""Solvers: weight to codes."""

from hf_quant.registry import Registry

SOLVERS = Registry("solver", {"rtn": "hf_quant.algorithms.rtn:RoundToNearest"})
