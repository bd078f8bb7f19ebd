"""The classes that Transformers has for a model type, the most useful first."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

_KINDS = (
    *("SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_TEXT_TO_TEXT", "SPEECH_SEQ_2_SEQ", "CAUSAL_LM", "CTC"),
    *("AUDIO_CLASSIFICATION", "IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "SEMANTIC_SEGMENTATION"),
    *("UNIVERSAL_SEGMENTATION", "DEPTH_ESTIMATION", "ZERO_SHOT_IMAGE_CLASSIFICATION", "TEXT_TO_SPECTROGRAM"),
    "TIME_SERIES_PREDICTION",
)
_ENDS = ("ForConditionalGeneration", "ForCausalLM", "Model", "Encoder", "Decoder")


def every_type() -> list[str]:
    """Model types with a class: an entry in an auto mapping of models, or a model whose config is the type's."""
    return [each for each in CONFIG_MAPPING if _has_class(each)]


def model_classes_of(model_type: str) -> list[type[Any]]:
    """All classes of a type, heads for language first, then the bare model, then the others of its modeling files.

    Raises:
        ImportError: A class needs a package that is not installed.
    """
    config = CONFIG_MAPPING[model_type]
    found: list[Any] = []
    others = sorted(each for each in vars(modeling_auto) if each.startswith("MODEL_") and each.endswith("_MAPPING"))
    for kind in [*(f"MODEL_FOR_{kind}_MAPPING" for kind in _KINDS), "MODEL_MAPPING", *others]:
        mapping = getattr(modeling_auto, kind, {})
        try:
            classes = mapping.get(config, ())
        except ValueError:  # a name that the library has no class for
            continue
        found += classes if isinstance(classes, tuple | list) else (classes,)
    found.sort(key=lambda each: each.config_class is not config)  # some mappings name the class of a part
    own = [each for each in _beside(config) if each.config_class is config]
    own.sort(key=lambda each: next((i for i, end in enumerate(_ENDS) if each.__name__.endswith(end)), len(_ENDS)))
    return list(dict.fromkeys([*found, *own]))


def parents_of(model_type: str) -> list[str]:
    """Types of the same package whose configs have a config of this type in them."""
    config = CONFIG_MAPPING[model_type]
    package = config.__module__.rpartition(".")[0]
    return [
        name
        for name, other in CONFIG_MAPPING.items()
        if other is not config and other.__module__.rpartition(".")[0] == package and _holds(other, config)
    ]


def _has_class(model_type: str) -> bool:
    try:
        return bool(model_classes_of(model_type))
    except ImportError:  # of a package that the class needs
        return True


def _holds(outer: type[Any], inner: type[Any]) -> bool:
    try:
        values = vars(outer()).values()
    except Exception:  # some have no defaults
        return False
    return any(isinstance(v, PreTrainedConfig) and (type(v) is inner or _holds(type(v), inner)) for v in values)


def _beside(config: type[Any]) -> list[type[Any]]:
    package = importlib.import_module(config.__module__.rpartition(".")[0])
    names = [each.name for each in pkgutil.iter_modules(package.__path__) if each.name.startswith("modeling_")]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in sorted(names)]
    return [
        each
        for module in modules
        for each in vars(module).values()
        if inspect.isclass(each)
        and issubclass(each, PreTrainedModel)
        and each.__module__ == module.__name__
        and not each.__name__.endswith("PreTrainedModel")
    ]
