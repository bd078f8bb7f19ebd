"""One model type, one preset at a time: does all that is promised hold?"""

from __future__ import annotations

import re
import signal
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto
from transformers.pytorch_utils import Conv1D

import hf_quant
from benchmarks.small_configs import LEVELS, small_config
from hf_quant.errors import EvaluationError, HfQuantError
from hf_quant.evaluation.float_outputs import float_outputs, relative_error
from hf_quant.evaluation.random_inputs import run_on_random_inputs
from hf_quant.modules.state import stored_state
from hf_quant.modules.swap import quantized_modules

RIGHT, NOTHING, REFUSED, WRONG, CRASHED, NOT_BUILT = "right", "nothing", "refused", "wrong", "crashed", "not built"
SAME = 1e-5
"""Largest difference of outputs that have to be the same, of weights quantized in memory and on the fly."""
_MOST_PARAMETERS = 20_000_000
_KINDS = (
    *("SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_TEXT_TO_TEXT", "CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "CTC"),
    *("AUDIO_CLASSIFICATION", "IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "SEMANTIC_SEGMENTATION"),
    *("UNIVERSAL_SEGMENTATION", "DEPTH_ESTIMATION", "ZERO_SHOT_IMAGE_CLASSIFICATION", "TEXT_TO_SPECTROGRAM"),
    "TIME_SERIES_PREDICTION",
)


class OutOfTime(BaseException):
    """A limit of time is over; nobody on the way takes it for an error of his own."""


def model_class_of(model_type: str) -> type[Any] | None:
    """The class of a type that people use: with a head for language where there is one; None where there is none."""
    config = CONFIG_MAPPING[model_type]
    for kind in [*(f"MODEL_FOR_{kind}_MAPPING" for kind in _KINDS), "MODEL_MAPPING"]:
        mapping = getattr(modeling_auto, kind, {})
        if config in mapping:
            found = mapping[config]
            return found[0] if isinstance(found, tuple | list) else found
    return None


def trial(model_type: str, presets: list[str], seconds: float) -> list[dict[str, Any]]:
    """Results of one type, a dict for each preset: `type`, `preset`, `class`, `stage`, `error` and figures."""
    with tempfile.TemporaryDirectory() as folder:
        facts: dict[str, Any] = {"type": model_type}
        try:
            with _limited(seconds):
                model_class, inputs, level = _built(model_type, Path(folder) / "float")
        except (Exception, OutOfTime) as error:
            return [{**facts, "preset": preset, "class": NOT_BUILT, "error": _said(error)} for preset in presets]
        facts |= {"model": model_class.__name__, "level": level}
        results = []
        for preset in presets:
            stages: dict[str, Any] = {}
            try:
                with _limited(seconds):
                    found = _result(model_class, inputs, preset, Path(folder), stages)
            except HfQuantError as error:
                before_work = stages.get("stage") in ("in memory", "on the fly")
                found = {"class": REFUSED if before_work else CRASHED, "error": _said(error)}
            except (Exception, OutOfTime) as error:
                found = {"class": CRASHED, "error": _said(error), "where": _where(error)}
            results.append({**facts, "preset": preset, **stages, **found})
        return results


def _built(model_type: str, folder: Path) -> tuple[type[Any], dict[str, Any], str]:
    """Save a float model of a type that runs; its class, inputs, and the level of its config."""
    model_class = model_class_of(model_type)
    if model_class is None:
        raise LookupError("no model class has this config")
    first: Exception | None = None
    for level in LEVELS:
        try:
            config = small_config(model_type, level)
            with torch.device("meta"):
                count = sum(parameter.numel() for parameter in model_class(config).parameters())
            if count > _MOST_PARAMETERS:
                raise MemoryError(f"{count:,} parameters")
            torch.manual_seed(0)
            model = model_class(config).float().eval()
            _draw(model)
            inputs, _ = run_on_random_inputs(model, lambda given, model=model: _outputs(model, given))
            model.save_pretrained(folder)
            _, info = model_class.from_pretrained(folder, output_loading_info=True)
            if missing := sorted(info["missing_keys"]):
                raise ValueError(f"Transformers does not find {missing[0]} and {len(missing) - 1} more in its own file")
            # What Transformers makes of its file is quantized, which may be other than what was saved.
            if relative_error(*(_outputs(_load(model_class, folder), inputs) for _ in range(2))) > 0:
                raise ValueError("the float model gives other outputs each time that it is loaded")
            return model_class, inputs, level
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def _result(
    model_class: type[Any], inputs: dict[str, Any], preset: str, folder: Path, stages: dict[str, Any]
) -> dict[str, Any]:
    stages["stage"] = "in memory"
    model = hf_quant.quantize(_load(model_class, folder / "float"), preset, progress=False)
    output = _outputs(model, inputs)
    if not any(quantized_modules(model)):
        return {"class": NOTHING}
    stages["stage"] = "on the fly"
    on_the_fly = _load(model_class, folder / "float", hf_quant.HfQuantConfig(preset))
    stages["fly_error"] = relative_error(_outputs(on_the_fly, inputs), output)
    if stages["fly_error"] > SAME:
        return {"class": WRONG}
    stages["stage"] = "check"
    report = hf_quant.check(model, inputs)
    stages |= {
        "modules": len(report.modules),
        "output_error": report.output_error,
        "output_bound": report.output_bound,
        "never_called": len(report.never_called),
        "read": report.read,
        "left_float": hf_quant.inspect(model).left_float,
    }
    if not report.is_right:
        return {"class": WRONG, "wrong": [each.module for each in report.wrong]}
    stages["stage"] = "dequantize"
    on_the_fly.dequantize()
    stages["float_error"] = relative_error(output, _outputs(on_the_fly, inputs))
    # The bound is 1e-3, and twice what rounding inputs changes where they are rounded.
    if stages["float_error"] > report.output_bound:
        return {"class": WRONG}
    stages["stage"] = "save"
    model.save_pretrained(folder / preset)
    again = _load(model_class, folder / preset)
    stages["stage"] = "reload"
    stages["reload_error"] = relative_error(_outputs(again, inputs), output)
    # Not of outputs: torch's convolutions depend on where in memory a weight lies.
    if stages["reload_error"] > SAME or not _same_tensors(again, model):
        return {"class": WRONG}
    stages["stage"] = "generate"
    if (expected := _generated(_load(model_class, folder / "float"), inputs)) is not None:
        found = [_generated(each, inputs, must=True) for each in (model, again)]
        stages["generated"] = int(expected.shape[-1])
        if not torch.equal(*found):
            return {"class": WRONG}
    stages["stage"] = "all"
    return {"class": RIGHT}


def _load(model_class: type[Any], folder: Path, config: Any = None) -> Any:
    return model_class.from_pretrained(folder, quantization_config=config, dtype=torch.float32).eval()


@torch.no_grad()
def _outputs(model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [tensor.clone() for tensor in float_outputs(model(**inputs))]


def _same_tensors(one: Any, other: Any) -> bool:
    first, second = (stored_state(model, model.state_dict()) for model in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def _generated(model: Any, inputs: dict[str, Any], must: bool = False) -> Any:
    if not getattr(model, "can_generate", lambda: False)():
        return None
    given = {name: tensor for name, tensor in inputs.items() if not name.startswith("decoder_")}
    if "decoder_input_ids" in inputs:
        given["decoder_input_ids"] = inputs["decoder_input_ids"][:, :1]
    torch.manual_seed(0)
    try:
        found = model.generate(**given, max_new_tokens=4, do_sample=False)
    except Exception:  # some classes can only do so with what their processors add
        if must:
            raise
        return None
    return found if isinstance(found, torch.Tensor) else None


@torch.no_grad()
def _draw(model: nn.Module) -> None:
    """Draw weights so large that outputs depend on each of them."""
    for module in model.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D) and weight is not None:
            width = weight.shape[0] if isinstance(module, Conv1D) else weight.shape[-1]
            weight.normal_(std=width**-0.5)
            if module._parameters.get("bias") is not None:
                module._parameters["bias"].normal_(std=0.1)
        elif "norm" in type(module).__name__.lower() and weight is not None and weight.ndim == 1:
            weight.add_(0.1 * torch.randn_like(weight))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3 and "expert" in name:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise OutOfTime(f"more than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(round(seconds))
    try:
        yield
    finally:
        signal.alarm(0)


def _said(error: BaseException) -> str:
    if isinstance(error, EvaluationError) and error.__cause__ is not None:  # what a model says of its inputs
        return f"no inputs: {_said(error.__cause__)}"
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {re.sub(r'/[^ ]*/site-packages/', '', first)}"[:300]  # records name no machine


def _where(error: BaseException) -> str:
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "/torch/" not in each.filename]
    return " < ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in reversed(frames[-4:]))
