"""What the config of a model says of its quantization, made to agree with the modules that the model has now."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

from hf_quant.config.name_ranges import with_ranges
from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme
from hf_quant.integration.tags import untag
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule
from hf_quant.quantizing.config import QUANT_METHOD, HfQuantConfig
from hf_quant.quantizing.left_float import LeftFloat

logger = logging.getLogger(__name__)

_ATTRIBUTE = "quantization_config"
_REPLACED = "replaced by a float module after the model was quantized"


def is_quantized(model: Any) -> bool:
    """Whether any module holds a weight in a scheme of this package."""
    return any(isinstance(module, QuantizedModule | StoredModule) for module in model.modules())


def says_quantized(config: Any) -> bool:
    """Whether a config, or one inside it, says that this package quantized the weights."""
    said = vars(config).get(_ATTRIBUTE)
    method = said.get("quant_method") if isinstance(said, dict) else getattr(said, "quant_method", None)
    return method == QUANT_METHOD or any(map(says_quantized, _inner(config).values()))


def is_unfounded(model: Any) -> bool:
    """Whether the config says that a model is quantized of which no module is.

    A plan that quantizes nothing is carried out by any model that was quantized with it.
    """
    if is_quantized(model) or not says_quantized(model.config):
        return False
    said = getattr(model.config, _ATTRIBUTE, None)
    plan = said.plan if isinstance(said, HfQuantConfig) else None
    return getattr(model, "hf_quantizer", None) is None or plan is None or any(plan.modules.values())


def drop_unfounded(model: Any) -> None:
    """Give a float model whose config says that it is quantized a config that does not, and say so.

    The config that it had, which a quantized model may share, stays as it is.
    """
    logger.warning(
        "%s is float, but its config says that hf_quant quantized it, as that of a quantized model which it was made "
        "with, or because its modules were replaced: quantization_config is dropped, and the model saved as floats. "
        "hf_quant.quantize(model, ...) quantizes it",
        type(model).__name__,
    )
    made: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(found := getattr(module, "config", None), PreTrainedConfig):
            module.config = _without(found, made)
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer.remove_quantization_config(model)
    untag(model)


@contextlib.contextmanager
def described(model: Any) -> Iterator[None]:
    """Let the config of a quantized model name, meanwhile, just the modules that are quantized, by all their names.

    They are others than when it was quantized where modules were replaced or deleted since, and where a part of a
    quantized model is saved alone.
    """
    values = vars(model.config)
    before = {name: values[name] for name in (_ATTRIBUTE,) if name in values}
    model.config.quantization_config = _description(model, before.get(_ATTRIBUTE))
    try:
        yield
    finally:
        values.pop(_ATTRIBUTE, None)
        values.update(before)


def _description(model: Any, said: Any) -> HfQuantConfig:
    found: dict[str, Scheme | None] = {
        name: module.spec.scheme if isinstance(module, QuantizedModule) else module.scheme
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, QuantizedModule | StoredModule)
    }
    if not isinstance(said, HfQuantConfig) or said.plan is None:
        return HfQuantConfig(plan=Plan(found), kept_float={})
    order = [name for name in said.plan.modules if name in found]
    plan = Plan({name: found[name] for name in [*order, *found]})
    reasons = {name: reason for name, reason in said.kept_float.items() if name not in found}
    if getattr(model, "hf_quantizer", None) is not None:
        lost = [name for name, scheme in said.plan.modules.items() if scheme is not None and name not in found]
        modules = dict(model.named_modules(remove_duplicate=False))
        reasons |= {name: _REPLACED for name in lost if name in modules}
        if lost:
            logger.warning(
                "not quantized any more, and saved as it is now: %s. Quantize the model anew to quantize all of it",
                ", ".join(with_ranges(lost)),
            )
    config = said.resolved(plan, reasons)
    config.left_float = str(LeftFloat.of(model, reasons))
    return config


def _inner(config: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if isinstance(value, PreTrainedConfig)}


def _without(config: Any, made: dict[int, Any]) -> Any:
    # One copy for each config, however many modules hold it.
    if id(config) not in made:
        made[id(config)] = new = copy.copy(config)
        vars(new).pop("_is_quantized", None)  # code of models asks whether it is there
        if says_quantized(new):
            vars(new).pop(_ATTRIBUTE, None)
        vars(new).update({name: _without(value, made) for name, value in _inner(config).items()})
    return made[id(config)]
