"""Checkpoints of compressed-tensors, as llm-compressor writes them: integers, in groups of modules with one scheme."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import CheckpointError, LayoutError
from hf_quant.importing.headers import Headers
from hf_quant.importing.module import ForeignModule, parts
from hf_quant.layouts import compressed_tensors as layout
from hf_quant.registry import unknown

FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "mixed-precision")
_LONGEST = 1000
"""Most characters of an expression: files come from strangers."""
_OTHERS = ("weight_shape", "weight_zero_point", "weight_g_idx", "input_scale", "input_zero_point")


def modules(config: Mapping[str, Any], headers: Headers) -> dict[str, ForeignModule]:
    """Quantized modules of a checkpoint of ``quant_method`` ``"compressed-tensors"``.

    Raises:
        LayoutError: The config asks for what our schemes do not have.
        CheckpointError: Tensors are missing, or belong to no group of the config.
    """
    _check(config)
    packed = parts(headers, "weight_packed", ("weight_scale", "weight_shape"), _OTHERS)
    plain = {
        name: tensors
        for name, tensors in parts(headers, "weight", (), ("weight_scale", *_OTHERS)).items()
        if "weight_scale" in tensors
    }
    groups = list(_groups(config))
    found = {}
    for name, tensors in {**packed, **plain}.items():
        group = _group_of(name, groups)
        weights = group["weights"]
        bits, symmetric = _bits(weights, range(2, 9)), weights.get("symmetric", True)
        read = partial(layout.read, bits=bits, symmetric=bool(symmetric))
        found[name] = ForeignModule(name, tensors, read, _input(group.get("input_activations"), weights))
    return found


def _check(config: Mapping[str, Any]) -> None:
    said = config.get("format", "int-quantized")
    if said not in FORMATS:
        raise LayoutError(unknown("format of compressed-tensors", said, FORMATS))
    for key, fix in (
        ("kv_cache_scheme", "the cache of keys and values is not quantized here"),
        ("transform_config", "rotations of other programs are not read"),
    ):
        if config.get(key):
            raise LayoutError(f"the checkpoint has a {key}: {fix}; take a checkpoint without")
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise LayoutError(f"weights are sparse ({sparsity.get('format')}): take a checkpoint without sparsity_config")


def _groups(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise CheckpointError("quantization_config has no config_groups: download the checkpoint again")
    for name, group in groups.items():
        targets = group.get("targets") if isinstance(group, Mapping) else None
        if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
            raise CheckpointError(f"config_groups of {name!r} has no list of targets: download the checkpoint again")
        if not isinstance(group.get("weights"), Mapping):
            raise LayoutError(f"group {name!r} of the config quantizes no weights: take a checkpoint that does")
        said = group.get("format")
        if said is not None and said not in FORMATS:
            raise LayoutError(f"group {name!r}: " + unknown("format of compressed-tensors", said, FORMATS))
        if group.get("output_activations"):
            raise LayoutError(f"group {name!r} quantizes outputs, which no scheme here does: take another checkpoint")
        _check_weights(group["weights"], name)
        yield group


def _check_weights(weights: Mapping[str, Any], name: str) -> None:
    if weights.get("type", "int") != "int":
        raise LayoutError(f"group {name!r} has weights of type {weights.get('type')!r}: only integers are read")
    strategy = weights.get("strategy")
    if strategy not in ("tensor", "channel", "group", None):
        raise LayoutError(f"group {name!r}: weights per {strategy!r} are not read, only per tensor, channel or group")
    if weights.get("dynamic"):
        raise LayoutError(f"group {name!r} quantizes weights anew for each call: take another checkpoint")


def _group_of(name: str, groups: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The group that a module is of: by its name, else by an expression, else by its class, as the program looks."""
    for matches in (_is_named, _is_matched, _is_class):
        found = [group for group in groups if any(matches(target, name) for target in group["targets"])]
        if matches is _is_class and len(found) > 1:
            raise LayoutError(f"{name}: several groups of the config are for its class; which is its is not known")
        if found:
            return found[0]
    raise CheckpointError(f"{name} is quantized, but no group of the config is for it: download the checkpoint again")


def _is_named(target: str, name: str) -> bool:
    return target == name


def _is_matched(target: str, name: str) -> bool:
    if not target.startswith("re:"):
        return False
    if len(target) > _LONGEST or re.search(r"\)[*+{]", target):
        raise LayoutError(
            f"target {target[:80]!r} repeats a group, which may take forever to match: write it otherwise"
        )
    try:
        return re.match(target[3:], name) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise CheckpointError(f"target {target[:80]!r} is not a regular expression: {error}") from error


def _is_class(target: str, name: str) -> bool:
    return target.isidentifier()


def _bits(args: Mapping[str, Any], known: Any) -> int:
    bits = args.get("num_bits", 8)
    if not isinstance(bits, int) or isinstance(bits, bool) or bits not in known:
        raise LayoutError(f"num_bits {bits!r} is not among {list(known)}")
    return bits


def _input(args: Any, weights: Mapping[str, Any]) -> TensorScheme | None:
    if args is None:
        return None
    if not isinstance(args, Mapping) or args.get("type", "int") != "int":
        raise LayoutError("inputs are quantized to floats: only integers are read")
    bits, symmetric, dynamic = _bits(args, (8,)), bool(args.get("symmetric", True)), args.get("dynamic", False)
    strategy = args.get("strategy") or ("token" if dynamic else "tensor")
    if dynamic is True and strategy in ("token", "tensor"):
        return TensorScheme(bits=bits, symmetric=symmetric, granularity=strategy, dynamic=True)
    if dynamic is True and strategy == "group" and symmetric and args.get("group_size") == weights.get("group_size"):
        return TensorScheme(granularity="group", group_size=args.get("group_size"), dynamic=True)
    if dynamic is False and strategy == "tensor":
        # Asymmetric whatever is said: symmetric inputs have the lowest code there, and not here.
        return TensorScheme(bits=bits, symmetric=False, granularity="tensor")
    raise LayoutError(
        f"inputs per {strategy!r}, {'dynamic' if dynamic else 'static'}, are not read: only dynamic per token, "
        "tensor or the weight's groups, and static per tensor"
    )
