"""What a checkpoint's headers say, checked before any tensor is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Container, Iterable
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from hf_quant.config.name_ranges import has_ranges
from hf_quant.errors import CheckpointError, WeightError
from hf_quant.importing.headers import DTYPES, Headers
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.opened import opened_modules
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import quantized_modules

FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes, as safetensors calls them, that a weight may have to be quantized."""
_OF_QUANTIZED = ("weight_", "input_")
"""How names of tensors begin that belong to a quantized weight or input."""


def model_names(model: Any, headers: Headers, converted: bool = True) -> Headers:
    """`headers` under the names that Transformers will load them to: renamings applied, base prefix added or cut.

    A tensor that is split while it is read, such as one of query, key and value, is there under the name of each part.

    Args:
        model: The model that is loaded.
        headers: Tensor name to shape and dtype, as in the files.
        converted: Whether the model's renamings and conversions are applied.
    """
    targets = _targets(model, headers, converted)
    return {target: headers[name] for name, found in targets.items() for target in found}


def split_names(model: Any, headers: Headers) -> dict[str, list[str]]:
    """Names of the parts of each tensor that is split while it is read, by the first of them.

    Args:
        model: The model that is loaded.
        headers: Tensor name to shape and dtype, as in the files.
    """
    return {found[0]: found for found in _targets(model, headers).values() if len(found) > 1}


def conversions(model: Any) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    """What Transformers renames, and what it converts, while it reads a checkpoint of a model."""
    found = get_model_conversion_mapping(model)
    renamings = [entry for entry in found if isinstance(entry, WeightRenaming)]
    return renamings, [entry for entry in found if isinstance(entry, WeightConverter)]


def _targets(model: Any, headers: Headers, converted: bool = True) -> dict[str, list[str]]:
    renamings, converters = conversions(model) if converted else ([], [])
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    expected = model.state_dict()
    targets = {}
    for name in headers:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if target not in expected and name in expected:
            target, pattern = name, None
        first, *others = by_pattern[pattern].target_patterns if pattern is not None else [target]
        targets[name] = [target, *(target.replace(first, other) for other in others)]
    return targets


def opened_names(model: Any, headers: Headers) -> Headers:
    """`headers`, and what becomes of tensors that are taken apart in an opened model, under the model's names."""
    found = dict(headers)
    for name, module in opened_modules(model):
        for stack in module.stacks:
            if (full := f"{name}.{stack.name}") in headers:
                found.update((f"{name}.{part}", headers[full]) for part in module.parts(stack))
    return found


def names_are_own(model: Any, headers: Headers, prefix: str) -> bool:
    """Whether a quantized checkpoint calls the tensors of the base model as the model does.

    Args:
        model: Model whose modules of the plan are exchanged already.
        headers: Tensor name to shape and dtype, as in the files.
        prefix: ``base_model_prefix`` of the model.
    """
    dot = f"{prefix}."
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    expected = [name for name in model.state_dict() if name not in tied]
    base = [name for name in expected if name.startswith(dot)] if prefix else []
    return all(
        name in headers or dot + name in headers or name.removeprefix(dot) in headers for name in base or expected
    )


def check_layers(model: Any, headers: Headers) -> None:
    """Refuse a checkpoint that has other tensors in its layers than the model: Transformers would draw them at random.

    Args:
        model: Float model, on the meta device.
        headers: Tensor name to shape and dtype, under the model's names (`model_names`).

    Raises:
        CheckpointError: A weight of a layer is missing, and there are tensors of layers that the model does not know.
    """
    expected = model.state_dict()
    unknown = next((name for name in headers if name not in expected and _is_of_layer(name)), None)
    if unknown is None:
        return
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    ignored = model._keys_to_ignore_on_load_missing or ()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name in headers or name in tied or not _is_of_layer(name):
            continue
        if not any(re.search(pattern, name) for pattern in ignored):
            raise CheckpointError(
                f"the checkpoint lacks {name}, and holds {unknown[:200]}, which {type(model).__name__} does not know: "
                "was it written by another quantizer or another library? Take the float checkpoint that it was made of"
            )


def _is_of_layer(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def check_float_headers(names: Iterable[str], headers: Headers) -> None:
    """Refuse to quantize what is not float: Transformers would cast integers, without their scales, and say nothing.

    Args:
        names: Names of the modules to quantize.
        headers: Tensor name to shape and dtype, under the model's names (`model_names`).

    Raises:
        WeightError: A weight is of an integer or 8-bit type.
    """
    for name in names:
        _, dtype = headers.get(f"{name}.weight", ((), "F32"))
        require_floats(f"{name}.weight", dtype)


def require_floats(tensor: str, dtype: str) -> None:
    """Raise WeightError unless the dtype of a tensor, as headers of safetensors name it, is one of floats."""
    if dtype not in FLOATS:
        raise WeightError(
            f"{tensor} holds {dtype}, not floats: is the checkpoint quantized already? "
            "Quantize from the float checkpoint that it was made from"
        )


def check_quantized_headers(model: Any, headers: Headers, inventory: Inventory) -> None:
    """Compare a quantized checkpoint with the modules its plan asks for.

    Args:
        model: Model whose modules of the plan are exchanged already.
        headers: Tensor name to shape and dtype, under the model's names (`model_names`).
        inventory: Candidates and ties of the float model.

    Raises:
        CheckpointError: A tensor of a quantized module is missing, has another shape or dtype, or is one that its
            scheme does not have; or a module that the plan keeps float holds codes.
    """
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for name in _left_float(model, inventory):
        _check_float_weight(model, headers, name, inventory.ties.get(name, ""))
    found: dict[str, set[str]] = {}
    for full in headers:
        module_name, _, key = full.rpartition(".")
        found.setdefault(module_name, set()).add(key)
    for name, module in quantized_modules(model):
        for key, (shape, dtype) in module.saved_tensors().items():
            _check_header(headers, f"{name}.{key}", shape, (DTYPES[dtype],), str(module.spec.scheme))
        for key in sorted(found.get(name, set()) - module.tensor_facts().keys()):
            # Transformers would drop it in silence, and codes made with a zero point decode wrongly without it.
            if key.startswith(_OF_QUANTIZED):
                raise CheckpointError(
                    f"the checkpoint holds {name}.{key}, which {module.spec.scheme} does not have: "
                    "config.json and weights do not belong together"
                )
        bias = getattr(module, "bias", None)
        if bias is not None and (f"{name}.bias" in headers or f"{name}.bias" not in tied):
            _check_header(headers, f"{name}.bias", tuple(bias.shape), FLOATS, "a bias")
    for name, module in model.named_modules():
        if isinstance(module, StoredModule) and (f"{name}.weight" in headers or f"{name}.weight" not in tied):
            dtypes = (DTYPES[module.weight.dtype],)
            _check_header(headers, f"{name}.weight", tuple(module.weight.shape), dtypes, str(module.scheme))


def _check_header(headers: Headers, full: str, shape: tuple[int, ...], dtypes: tuple[str, ...], purpose: str) -> None:
    if full not in headers:
        raise CheckpointError(f"{full} is missing from the checkpoint: download or save it again")
    found_shape, found_dtype = headers[full]
    if found_shape != shape or found_dtype not in dtypes:
        raise CheckpointError(
            f"{full} should be {' or '.join(dtypes)} {list(shape)} for {purpose}, but the checkpoint holds "
            f"{found_dtype} {list(found_shape)}: config.json and weights do not belong together, or another version of "
            "this package wrote them; quantize the model again"
        )


def _check_float_weight(model: Any, headers: Headers, name: str, source: str) -> None:
    # A module that stays float and yet gets codes, its own or those of the module it is tied to.
    full = f"{name}.weight"
    if full in headers:
        if headers[full][1] not in FLOATS:
            raise CheckpointError(
                f"{full} holds {headers[full][1]} codes, but the plan in config.json keeps {name} float: "
                "config.json and weights do not belong together"
            )
    elif source and isinstance(model.get_submodule(source), QuantizedModule):
        raise CheckpointError(
            f"{name} is tied to {source}, which the plan in config.json quantizes while it keeps {name} float: "
            "both need the same entry; save the checkpoint again"
        )


def check_same_model(model: Any, headers: Headers, kept_float: Container[str], inventory: Inventory) -> None:
    """Refuse a config.json that describes another model than the one whose weights are here.

    Args:
        model: Model whose modules of the plan are exchanged already.
        headers: Tensor name to shape and dtype, under the model's names (`model_names`).
        kept_float: Names that stayed float when the checkpoint was written.
        inventory: Candidates and ties of the float model.

    Raises:
        CheckpointError: Nothing of the base model is in the checkpoint; or, for the class that the checkpoint was
            written by, a module is in neither the plan, nor the checkpoint, nor the list of those left float.
    """
    expected = model.state_dict()
    base = [name for name in expected if name.startswith(f"{inventory.prefix}.")] or list(expected)
    if not any(name in headers for name in base):
        raise CheckpointError(
            f"the checkpoint holds nothing of the base model of {type(model).__name__}: "
            "load it with the model class that it was saved with, and see that config.json names its model_type"
        )
    if not written_by(model):
        return
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for name in _left_float(model, inventory):
        full = f"{name}.weight"
        if name not in kept_float and full not in headers and full not in tied:
            raise CheckpointError(
                f"the model that config.json describes has {name}, which neither its plan nor the weights know: "
                "config.json and weights do not belong together"
            )


def _left_float(model: Any, inventory: Inventory) -> list[str]:
    # Experts of which all stay float are closed again.
    found = dict(model.named_modules())
    return [n for n in inventory.candidates if n in found and not isinstance(found[n], QuantizedModule | StoredModule)]


def written_by(model: Any) -> bool:
    """Whether the checkpoint was saved by a model of this class, so that its plan has to fit without remainder."""
    return type(model).__name__ in (getattr(model.config, "architectures", None) or [])


def match_names(names: Collection[str], known: Iterable[str], prefix: str, same_class: bool = False) -> dict[str, str]:
    """Names of a saved plan to those of the model at hand.

    A plan saved with a task model names ``bert.encoder...`` what the bare model calls ``encoder...``; modules
    outside the base model have no counterpart there and are left out.

    Args:
        names: Names in the saved plan. They are exact: a pattern, which a checkpoint never holds, is not evaluated.
        known: Names of the model's modules.
        prefix: ``base_model_prefix`` of the model.
        same_class: The checkpoint was saved by this very class, so every name has a counterpart.

    Raises:
        CheckpointError: A name has no counterpart though it should, or is a pattern.
    """
    known = set(known)
    matched = {}
    dot = f"{prefix}."
    is_bare = bool(prefix) and not any(name.startswith(dot) for name in known)
    if is_bare and any(name.startswith(dot) for name in names):
        same_class = False  # the base model inside a task model was saved, with the plan of the whole
    for name in names:
        if name in known:
            matched[name] = name
        elif name.startswith(dot) and name.removeprefix(dot) in known:
            matched[name] = name.removeprefix(dot)
        elif dot + name in known:
            matched[name] = dot + name
        elif name.startswith("re:") or any(character in name for character in "*?[") or has_ranges(name):
            raise CheckpointError(
                f"the plan in config.json holds the pattern {name[:80]!r}, but a saved plan names modules exactly: "
                "quantize the model again with this plan and save it"
            )
        elif same_class or (not (is_bare and not name.startswith(dot)) and not _is_outside(name, dot, known)):
            raise CheckpointError(
                f"the plan in config.json quantizes {name[:200]!r}, which the model cannot quantize or does not have: "
                "config.json and model class do not belong together"
            )
    for other, count in Counter(matched.values()).items():
        if count > 1:
            raise CheckpointError(f"the plan in config.json has two entries for {other!r}: save the checkpoint again")
    return matched


def _is_outside(name: str, dot: str, known: set[str]) -> bool:
    # A head that another task's model does not have, such as lm_head in a sequence classifier.
    return not name.startswith(dot) and any(other.startswith(dot) for other in known)
