"""Checkpoints of GPTQ, by AutoGPTQ, GPTQModel, and AutoRound where it packs as they do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hf_quant.errors import CheckpointError, LayoutError
from hf_quant.formats.packing import words_per_row
from hf_quant.importing.headers import Headers
from hf_quant.importing.module import ForeignModule, parts
from hf_quant.layouts import awq, gptq
from hf_quant.registry import unknown

_LESS_ONE = {"gptq": True, "gptq_v2": False}
_ROUNDED = {"auto_round:auto_gptq": True, "auto_round:gptqmodel": True, "auto_round": False, "auto_round:gptq": True}


def modules(config: Mapping[str, Any], headers: Headers) -> dict[str, ForeignModule]:
    """Quantized modules of a checkpoint of ``quant_method`` ``"gptq"``.

    Raises:
        LayoutError: The format of the file, or a number of bits, is none that is read.
        CheckpointError: Tensors are missing, or have other shapes than the config says.
    """
    said = config.get("checkpoint_format") or config.get("format") or "gptq"
    if not isinstance(said, str) or said not in _LESS_ONE:
        raise LayoutError(unknown("checkpoint_format of GPTQ", said, _LESS_ONE))
    return _modules(config, headers, _LESS_ONE[said])


def rounded_modules(config: Mapping[str, Any], headers: Headers) -> dict[str, ForeignModule]:
    """The same of ``"auto-round"``, which packs as GPTQ or as AWQ.

    Raises:
        LayoutError: ``packing_format`` is none that is read.
        CheckpointError: Tensors are missing, or have other shapes than the config says.
    """
    said = config.get("packing_format", "auto_round:auto_gptq")
    if said == "auto_round:auto_awq":
        return awq_modules({"bits": config.get("bits"), "version": "gemm"}, headers)
    if not isinstance(said, str) or said not in _ROUNDED:
        raise LayoutError(unknown("packing_format of AutoRound", said, [*_ROUNDED, "auto_round:auto_awq"]))
    return _modules(config, headers, _ROUNDED[said])


def awq_modules(config: Mapping[str, Any], headers: Headers) -> dict[str, ForeignModule]:
    """Quantized modules of a checkpoint of ``quant_method`` ``"awq"``.

    Raises:
        LayoutError: The version is not that of the GEMM kernels, or bits are not 4.
        CheckpointError: Tensors are missing.
    """
    said = str(config.get("version") or config.get("format") or config.get("checkpoint_format") or "gemm").lower()
    if said != "gemm":
        raise LayoutError(f'weights of AWQ are read in the order of version "gemm", not of {said!r}')
    bits = config.get("bits", config.get("w_bit", 4))
    if bits not in awq.BITS:
        raise LayoutError(f"weights of AWQ are read with 4 bits, not {bits!r}")
    found = parts(headers, "qweight", ("qzeros", "scales"))
    return {name: ForeignModule(name, tensors, awq.read) for name, tensors in found.items()}


def _modules(config: Mapping[str, Any], headers: Headers, less_one: bool) -> dict[str, ForeignModule]:
    found = {}
    has_own = any(config.get(key) for key in ("dynamic", "extra_config"))
    for name, tensors in parts(headers, "qweight", ("qzeros", "scales"), ("g_idx",)).items():
        bits = _bits_of(headers[tensors["qzeros"]][0], headers[tensors["scales"]][0]) if has_own else config.get("bits")
        if bits not in gptq.BITS:
            raise LayoutError(f"{name}: weights of GPTQ are read with {gptq.BITS} bits, not {bits!r}")
        rows, inputs = headers[tensors["qweight"]][0][:1], headers[tensors["g_idx"]][0] if "g_idx" in tensors else ()
        if inputs and rows and rows[0] * 32 != bits * inputs[0]:
            raise CheckpointError(f"{name}.qweight has {rows[0]} rows, which are not {inputs[0]} codes of {bits} bits")
        found[name] = ForeignModule(name, tensors, partial(gptq.read, bits=bits, less_one=less_one))
    return found


def _bits_of(zeros: tuple[int, ...], scales: tuple[int, ...]) -> int | None:
    """Bits of a module, which configs with exceptions say by patterns: those that its packed zero points take."""
    if len(zeros) != 2 or len(scales) != 2:
        return None
    fitting = [bits for bits in gptq.BITS if words_per_row(scales[1], bits) == zeros[1]]
    return fitting[0] if len(fitting) == 1 else None
