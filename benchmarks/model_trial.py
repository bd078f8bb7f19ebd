"""One model type, one preset at a time: does all that is promised hold?"""

from __future__ import annotations

import re
import signal
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import hf_quant
from benchmarks.model_classes import model_classes_of, parents_of
from benchmarks.model_inputs import caught_inputs, run_on_some_inputs
from benchmarks.model_results import CRASHED, NOT_BUILT, NOTHING, REFUSED, RIGHT, WRONG
from benchmarks.small_configs import LEVELS, small_config
from hf_quant.config.presets import PRESETS
from hf_quant.errors import EvaluationError, HfQuantError
from hf_quant.evaluation.float_outputs import float_outputs, relative_error
from hf_quant.modules.filters import Filters
from hf_quant.modules.joined import replaced_output
from hf_quant.modules.state import stored_state
from hf_quant.modules.swap import quantized_modules
from hf_quant.opening.open import opened
from hf_quant.workflows.check import EXACT

SAME = 1e-5
"""Largest difference of outputs that have to be the same, of weights quantized in memory and on the fly."""
STEP = 1e-3
"""Largest difference of scales that data sets: some are the best of many tries, which lie so far from one another."""
_MOST_PARAMETERS = {LEVELS[-1]: 100_000_000}
_CLASSES = 5
"""Most classes of a type that are tried."""

_LEAST_DRAWS, _DRAWS = 3, 16


class OutOfTime(BaseException):
    """A limit of time is over; nobody on the way takes it for an error of his own."""


def trial(model_type: str, presets: list[str], seconds: float, hidden: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Results of one type, a dict for each preset: `type`, `preset`, `class`, `stage`, `error` and figures.

    Args:
        model_type: A type that has a class.
        presets: Names of presets.
        seconds: Most seconds of a processor for the float model, and for each preset.
        hidden: Width of the model where its config can be made as small.
        seed: Seed of weights and inputs.
    """
    with tempfile.TemporaryDirectory() as folder:
        facts: dict[str, Any] = {"type": model_type}
        try:
            with _limited(seconds):
                model_class, inputs, level = _built(model_type, Path(folder) / "float", hidden, seed)
        except (Exception, OutOfTime) as error:
            return [{**facts, "preset": preset, "class": NOT_BUILT, "error": _said(error)} for preset in presets]
        reads = model_class.input_modalities
        family = reads if isinstance(reads, str) else "+".join(reads)
        facts |= {"model": model_class.__name__, "level": level, "family": family}
        facts |= {} if (hidden, seed) == (64, 0) else {"hidden": hidden, "seed": seed}
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


def _built(model_type: str, folder: Path, hidden: int = 64, seed: int = 0) -> tuple[type[Any], dict[str, Any], str]:
    """Save a float model of a type that runs; its class, inputs, and the level of its config."""
    classes = model_classes_of(model_type)
    if not classes:
        raise LookupError("no model class has this config")
    first: Exception | None = None
    for model_class in classes[:_CLASSES]:
        for level in LEVELS:
            try:
                model = _small_model(model_type, model_class, level, hidden, seed)
                inputs = run_on_some_inputs(model, lambda given, model=model: _outputs(model, given), seed)
                _save(model, inputs, folder)
                return model_class, inputs, level
            except Exception as error:
                first = first or error
    for parent in parents_of(model_type):
        for level in LEVELS[:-1]:
            try:
                model = _small_model(parent, model_classes_of(parent)[0], level, hidden, seed)
                for model_class in classes:
                    with suppress(LookupError):
                        part, inputs = caught_inputs(
                            model,
                            model_class,
                            lambda model=model: run_on_some_inputs(model, lambda given: _outputs(model, given), seed),
                        )
                        _save(part, inputs, folder)
                        return model_class, inputs, f"{level}, in {parent}"
            except Exception:
                continue
    assert first is not None
    raise first


def _small_model(model_type: str, model_class: type[Any], level: str, hidden: int, seed: int) -> Any:
    config = small_config(model_type, level, hidden)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in model_class(config).parameters())
    if count > _MOST_PARAMETERS.get(level, 35_000_000):
        raise MemoryError(f"{count:,} parameters")
    torch.manual_seed(seed)
    model = model_class(config).float().eval()
    _draw(model)
    return model


def _save(model: Any, inputs: dict[str, Any], folder: Path) -> None:
    """Save a float model, and see that it is loaded with nothing missing and computes the same every time."""
    _outputs(model, inputs)
    model.save_pretrained(folder)
    _, info = type(model).from_pretrained(folder, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"Transformers does not find {missing[0]} and {len(missing) - 1} more in its own file")
    # What Transformers makes of its file is quantized, which may be other than what was saved.
    if relative_error(*(_outputs(_load(type(model), folder), inputs) for _ in range(2))) > 0:
        raise ValueError("the float model gives other outputs each time that it is loaded")


def _result(
    model_class: type[Any], inputs: dict[str, Any], preset: str, folder: Path, stages: dict[str, Any]
) -> dict[str, Any]:
    stages["stage"] = "in memory"
    model = _load(model_class, folder / "float")
    config = _config(model, preset, inputs)
    model = hf_quant.quantize(model, config, progress=False)
    output = _outputs(model, inputs)
    if not any(quantized_modules(model)):
        return {"class": NOTHING}
    stages["stage"] = "on the fly"
    on_the_fly = _load(model_class, folder / "float", config)
    stages["fly_error"] = relative_error(_outputs(on_the_fly, inputs), output)
    if stages["fly_error"] > SAME:
        # Torch's convolutions depend on where in memory a weight lies, and grids that data sets on what they give.
        if config.calibration is None or not same_tensors(model, on_the_fly, STEP):
            return {"class": WRONG}
        stages["fly_floor"] = _floor(model, inputs, output, stages["fly_error"] / 2)
        if stages["fly_error"] > 2 * stages["fly_floor"]:
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
    bound = report.output_bound
    if report.output_error > EXACT:
        stages["floor"] = _floor(model, inputs, output, report.output_error / 2)
        bound = max(bound, 2 * stages["floor"])
    if report.wrong or report.output_error > max(EXACT, 2 * stages.get("floor", 0.0)):
        return {"class": WRONG, "wrong": [each.module for each in report.wrong]}
    stages["stage"] = "dequantize"
    on_the_fly.dequantize()
    stages["float_error"] = relative_error(output, _outputs(on_the_fly, inputs))
    # The bound is 1e-3, and twice what rounding inputs changes where they are rounded, or a millionth changes.
    if stages["float_error"] > bound:
        return {"class": WRONG}
    stages["stage"] = "save"
    model.save_pretrained(folder / preset)
    again = _load(model_class, folder / preset)
    stages["stage"] = "reload"
    stages["reload_error"] = relative_error(_outputs(again, inputs), output)
    # Not of outputs: torch's convolutions depend on where in memory a weight lies.
    if stages["reload_error"] > SAME or not same_tensors(again, model):
        return {"class": WRONG}
    stages["stage"] = "generate"
    if (expected := _generated(_load(model_class, folder / "float"), inputs)) is not None:
        found = [_generated(each, inputs, must=True) for each in (model, again)]
        stages["generated"] = int(expected.shape[-1])
        if not torch.equal(*found):
            return {"class": WRONG}
    stages["stage"] = "all"
    return {"class": RIGHT}


def _config(model: Any, preset: str, inputs: dict[str, Any]) -> hf_quant.HfQuantConfig:
    """The config of a preset; where it needs data, the inputs, and what they do not reach stays float."""
    if preset not in PRESETS or (scheme := PRESETS[preset].linear.input) is None or scheme.dynamic:
        return hf_quant.HfQuantConfig(preset)
    called: set[str] = set()
    with opened(model):
        linears = {
            name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D | Filters)
        }
        handles = [
            module.register_forward_pre_hook(lambda *_, name=name: called.add(name)) for name, module in linears.items()
        ]
        _outputs(model, inputs)
        for handle in handles:
            handle.remove()
    missed = sorted(re.escape(name) + "$" for name in linears.keys() - called)
    return hf_quant.HfQuantConfig(
        preset, calibration=hf_quant.Calibration([inputs]), modules_to_not_convert=missed or None
    )


def _floor(model: Any, inputs: dict[str, Any], output: list[torch.Tensor], enough: float) -> float:
    """What noise of a millionth in inputs and outputs of modules changes: numbers jump, other queries are chosen.

    The most of several draws; of more where less than `enough` is found, since a jump is rare in small models.
    """
    found: list[float] = []
    for seed in range(_DRAWS):
        if seed >= _LEAST_DRAWS and max(found) >= enough:
            break
        generator = torch.Generator().manual_seed(seed)

        def noisy(value: Any, generator: Any = generator) -> Any:
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                return value
            return value * (1 + 1e-6 * torch.randn(value.shape, generator=generator))

        def change(module: Any, args: Any, kwargs: Any, out: Any, noisy: Any = noisy) -> Any:
            return noisy(out)

        with ExitStack() as replaced:
            for _, module in quantized_modules(model):
                replaced.enter_context(replaced_output(module, change))
            given = {name: noisy(value) for name, value in inputs.items()}
            found.append(relative_error(_outputs(model, given), output))
    return max(found)


def _load(model_class: type[Any], folder: Path, config: Any = None) -> Any:
    return model_class.from_pretrained(folder, quantization_config=config, dtype=torch.float32).eval()


@torch.no_grad()
def _outputs(model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [tensor.clone() for tensor in float_outputs(model(**inputs))]


def same_tensors(one: Any, other: Any, step: float = 0.0) -> bool:
    """Whether two models store the same; static grids of inputs may differ by `step` of the scale, and a zero point."""
    first, second = (stored_state(model, model.state_dict()) for model in (one, other))

    def same(name: str) -> bool:
        tensor, found = first[name], second[name]
        if step and name.endswith("input_scale"):
            return relative_error([found], [tensor]) <= step
        if step and name.endswith("input_zero_point"):
            return bool((found.int() - tensor.int()).abs().max() <= 1)
        return torch.equal(tensor, found)

    return first.keys() == second.keys() and all(map(same, first))


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
            if getattr(module, "padding_idx", None) is not None:
                weight[module.padding_idx] = 0.0  # some classes see to it whenever they are loaded
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and weight is not None:
            weight.normal_(std=weight[0].numel() ** -0.5)
        elif "norm" in type(module).__name__.lower() and weight is not None and weight.ndim == 1:
            weight.add_(0.1 * torch.randn_like(weight))
            if isinstance(variance := module._buffers.get("running_var"), torch.Tensor):
                variance.uniform_(0.5, 2.0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3 and "expert" in name:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Context that ends with `OutOfTime` after seconds of this process's own, so that others do not use them up."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"more than {seconds:.0f} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _said(error: BaseException) -> str:
    if isinstance(error, EvaluationError) and error.__cause__ is not None:  # what a model says of its inputs
        return f"no inputs: {_said(error.__cause__)}"
    first = " ".join(str(error).split())
    return f"{type(error).__name__}: {re.sub(r'/[^ ]*/site-packages/', '', first)}"[:300]  # records name no machine


def _where(error: BaseException) -> str:
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "/torch/" not in each.filename]
    return " < ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in reversed(frames[-4:]))
