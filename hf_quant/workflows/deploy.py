"""`hf_quant.deploy`: from a float model and a device to what runs there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from hf_quant.errors import ConfigError, InfeasibleBudget, UnsupportedModel
from hf_quant.hardware.devices import Device, get_device
from hf_quant.hardware.profile import Profile
from hf_quant.modules.swap import quantized_modules
from hf_quant.planner.optimize_for import TARGETS, Advice, advise
from hf_quant.planner.portable_advice import portable_advice
from hf_quant.portability import TARGETS as PORTABLE_TARGETS
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.registry import unknown
from hf_quant.workflows.checkpoints import check_output, check_source, load_model, load_tokenizer
from hf_quant.workflows.export import Export, check_export, export
from hf_quant.workflows.quantize import quantize

AUTO, CHECKPOINT = "auto", "checkpoint"
"""What a model can be written as, beside export targets: what suits the device, and a checkpoint of this package."""
_SMALLER = 'target="memory"'


@dataclass(frozen=True)
class Deployment:
    """A model that was made ready for a device.

    Args:
        device: The device.
        advice: The plan, and the reason for each choice.
        model: The quantized model, in memory.
        exported: What was exported; None where nothing was.
        directory: Where a checkpoint or an export is; None where nothing was written.
    """

    device: Device
    advice: Advice
    model: Any
    exported: Export | None = None
    directory: Path | None = None

    def sentences(self) -> Iterator[str]:
        """Why the model is as it is: the device, each kind of choice, and memory."""
        device = self.device
        means = "" if device.name == device.profile.name else f"{device.name} means {device.profile.name}: "
        yield f"{means}{device.profile.summary}."
        if device.reason:
            yield device.reason
        yield f"Asked for is {self.advice.target}: {TARGETS[self.advice.target]}."
        *choices, memory = self.advice.lines()
        yield from (f"{line}." for line in [*choices, memory])

    def __str__(self) -> str:
        lines = list(self.sentences())
        if self.exported is not None:
            lines.append(str(self.exported))
        elif self.directory is not None:
            lines.append(f"Saved to {self.directory}: from_pretrained opens it where hf_quant is imported.")
        return "\n".join(lines)


def deploy(
    model: Any,
    device: str | Profile,
    directory: str | PathLike[str] | None = None,
    *,
    target: str = "speed",
    export_to: str = AUTO,
    tokenizer: Any = None,
    verify: bool | None = None,
    progress: bool = True,
) -> Deployment:
    """Quantize a model by a plan for a device, without data, and write what runs there.

    The plan is that of `optimize_for`; what it is exported to takes all of it.

    Args:
        model: Path or repository id of a float checkpoint, or a float Transformers model in memory, which becomes
            quantized.
        device: ``"mobile"``, ``"desktop"`` or ``"edge"``; or a hardware profile, by name or as one of your own.
        directory: Where the files go, an export or a checkpoint; None: nothing is written.
        target: What to optimize for: ``"speed"``, ``"memory"`` or ``"accuracy"``.
        export_to: Name of an export target; ``"checkpoint"`` for a checkpoint of this package; ``"auto"``: what runs on
            the device, ``"executorch"`` on mobile, ``"onnx"`` on desktop and edge, a checkpoint on a profile.
        tokenizer: The model's tokenizer; None: that of the checkpoint, if there is one.
        verify: Whether to run what was exported; as `export` takes it.
        progress: Show a progress bar.

    Returns:
        The model, the plan and what was written; ``str()`` of it says why in sentences.

    Raises:
        UnknownName: There is no such device or export target.
        ConfigError: There is no such target to optimize for, or the directory is a file or where the model lies.
        UnsupportedModel: The model is quantized already, or nothing in it can be.
        InfeasibleBudget: The quantized weights do not fit the memory of the device.
        MissingDependency: Packages of the export target are not installed.
        ExportError: As `export` raises it. Of all of these, only what writing and running finds is told after work.
        SaveError: The files cannot be written.
    """
    place = get_device(device)
    if target not in TARGETS:
        raise ConfigError(unknown("target", target, TARGETS))
    runs_in = _export_target(place, export_to)
    path = None if directory is None else Path(directory)
    source = model if isinstance(model, str | PathLike) else None
    _check_place(runs_in, path, source, verify)
    loaded = model if source is None else _load(str(source))
    advice = _advice(loaded, place, target, runs_in)
    quantize(loaded, HfQuantConfig(plan=advice.plan), progress=progress)
    if path is None:
        return Deployment(place, advice, loaded)
    if tokenizer is None and source is not None:
        tokenizer = load_tokenizer(str(source))
    if runs_in is not None:
        exported = export(loaded, runs_in, path, tokenizer=tokenizer, verify=verify)
        return Deployment(place, advice, loaded, exported, path)
    loaded.save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    return Deployment(place, advice, loaded, None, path)


def _export_target(device: Device, asked: str) -> str | None:
    if asked == AUTO:
        return device.export
    if asked == CHECKPOINT:
        return None
    if asked not in PORTABLE_TARGETS:
        raise ConfigError(unknown("export target", asked, [AUTO, CHECKPOINT, *PORTABLE_TARGETS]))
    return asked


def _check_place(runs_in: str | None, directory: Path | None, source: Any, verify: bool | None) -> None:
    if directory is None:
        return
    if runs_in is not None:
        check_export(runs_in, directory, verify)
    elif verify:
        raise ConfigError("a checkpoint is not run to verify it: leave verify out, and call hf_quant.check(model)")
    check_output(directory, "" if source is None else str(source))


def _load(source: str) -> Any:
    check_source(source)
    return load_model(source)


def _advice(model: Any, device: Device, target: str, runs_in: str | None) -> Advice:
    if any(quantized_modules(model)):
        raise UnsupportedModel(f"{type(model).__name__} is quantized already: give the float model it was made of")

    def made(aim: str) -> Advice:
        profile = device.profile
        return advise(model, profile, aim) if runs_in is None else portable_advice(model, profile, aim, runs_in)

    advice = made(target)
    if all(choice.scheme is None for choice in advice.choices):
        raise UnsupportedModel(f"{type(model).__name__} has no module that {device.name} takes quantized")
    if advice.fits is False:
        smaller = target != "memory" and made("memory").fits
        raise InfeasibleBudget(f"{advice.memory}: take {_SMALLER if smaller else 'a smaller model'}")
    return advice
