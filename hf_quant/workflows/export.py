"""`hf_quant.export`: a quantized model as the files of another program."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from hf_quant.errors import EvaluationError, ExportError, HfQuantError, SaveError, UnsupportedModel
from hf_quant.evaluation.fingerprint import tensors_fingerprint
from hf_quant.export import TARGETS
from hf_quant.export.manifest import FORMAT_VERSION, MANIFEST, exported_before, files_of
from hf_quant.export.target import Comparison, Target
from hf_quant.export.tensors import saved_tensors
from hf_quant.hub.evidence import EVIDENCE_FILE, public_name
from hf_quant.integration.described import described
from hf_quant.modules.swap import quantized_modules
from hf_quant.portability.report import PortabilityReport
from hf_quant.reporting.json_file import read_json
from hf_quant.staging import publish, staging
from hf_quant.workflows.checkpoints import load_tokenizer
from hf_quant.workflows.portability import portability

logger = logging.getLogger(__name__)

_MOST_NAMED = 3


@dataclass(frozen=True)
class Export:
    """What was exported.

    Args:
        directory: Where it is.
        target: Name of the target.
        report: What the target took, module by module.
        manifest: What ``hf_quant_export.json`` says.
        comparison: What the artefact computes in its runtime; None where it was not run.
    """

    directory: Path
    target: str
    report: PortabilityReport
    manifest: Mapping[str, Any]
    comparison: Comparison | None

    @property
    def bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(each["bytes"] for each in self.manifest["files"].values())

    def __str__(self) -> str:
        ran = "not run here" if self.comparison is None else f"run in {self.comparison}"
        lines = [str(self.report), f"Exported to {self.directory}: {self.bytes:,} bytes", ran[0].upper() + ran[1:]]
        run = TARGETS[self.target].how_to_run(self.manifest["model"], self.directory)
        return "\n".join([*lines, "Run it with:", *(f"  {line}" for line in run)])


def export(
    model: Any,
    target: str,
    directory: str | PathLike[str],
    *,
    tokenizer: Any = None,
    accept: Collection[str] = (),
    verify: bool | None = None,
    **options: Any,
) -> Export:
    """Write a quantized model for another program: codes and scales are carried across, never quantized again.

    What the target takes is found out first, and nothing is written where it refuses a module. What was written is run
    in the target's own runtime, and compared, before it gets to `directory`.

    Args:
        model: Quantized Transformers model, in memory.
        target: Name of a target, such as ``"compressed-tensors"``; ``hf-quant export --help`` lists them.
        directory: Where the files go: an empty directory, one that is not there yet, or one with an earlier export,
            which is replaced.
        tokenizer: The model's tokenizer; None: that of the checkpoint that the model was loaded from, if there is one.
        accept: Names of refusals that are not to count, for a reader that is known to take it; see `portability`.
        verify: Whether to run what was written. None: if its runtime is installed, and no refusal was accepted.
        **options: Options of the target.

    Returns:
        The report, the manifest and the comparison; ``str()`` of it says all, and how to run it.

    Raises:
        ExportError: The target refuses a module (the override that makes it portable is named), `directory` holds
            something else, or what was written computes something else; nothing was written.
        UnknownName: There is no such target.
        ConfigError: The target has no such option, or no such refusal.
        UnsupportedModel: The model is not quantized, or its weights are not in memory.
        MissingDependency: A package is not installed that the target needs, or that verifying does.
        SaveError: The files cannot be written.
    """
    directory = Path(directory)
    found, stale = check_export(target, directory, verify, options)
    _check_in_memory(model)
    report = portability(model, target, accept)
    if not report.is_portable:
        raise ExportError(_refusal(report))
    source = str(getattr(model.config, "name_or_path", ""))
    if tokenizer is None and source and found.takes_tokenizer:
        tokenizer = load_tokenizer(source)
    training = model.training
    model.eval()
    try:
        with staging(directory) as folder:
            found.write(model, folder, tokenizer, **options)
            if found.takes_tokenizer:
                _add_companions(model, tokenizer, folder)
            comparison = None
            # A refusal that was accepted is one of the runtime that is here.
            if verify or (verify is None and found.can_verify and not accept):
                comparison = _compared(found, model, folder, must=bool(verify))
                if comparison is not None and not comparison.is_right:
                    raise ExportError(f"what was written for {target} computes something else: {comparison}")
            manifest = _manifest(model, target, found, report, comparison, accept, options, folder, directory)
            text = json.dumps(manifest, indent=1, ensure_ascii=False)
            (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
            publish(folder, directory, stale, last=MANIFEST)
    except (OSError, SafetensorError) as error:
        # safetensors reports a full disk as an error of its own.
        if isinstance(error, HfQuantError):
            raise
        raise SaveError(
            f"cannot export to {directory}: {error}. Nothing was changed there; free space or rights"
        ) from error
    finally:
        model.train(training)
    return Export(directory, target, report, manifest, comparison)


def check_export(
    target: str, directory: Path, verify: bool | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Target, list[str]]:
    """What `export` refuses before it looks at a model; see there for arguments and errors.

    Returns:
        The target, and what an earlier export left in the directory.
    """
    found: Target = TARGETS[target]
    found.check_options(target, options or {})
    found.require(found.packages, f"exporting to {target}")
    if verify:
        if found.verify is None:
            raise ExportError(f"{target} cannot be run here to verify it: leave verify out")
        found.require(found.runtime, f"verifying {target}")
    return found, exported_before(directory)


def _compared(found: Target, model: Any, folder: Path, must: bool) -> Comparison | None:
    assert found.verify is not None
    try:
        return found.verify(model, folder)
    except EvaluationError as error:
        if must:
            raise
        logger.warning("what was exported was not run: %s", error)
        return None


def _check_in_memory(model: Any) -> None:
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModel(f"hf_quant exports Transformers models, not {type(model).__name__}")
    if getattr(model, "_hf_peft_config_loaded", False) or any("lora_" in name for name, _ in model.named_parameters()):
        raise UnsupportedModel("adapters are not exported: merge them into the weights first (merge_and_unload)")
    for name, module in quantized_modules(model):
        if module.is_offloaded or module._parameters["weight"].is_meta:  # type: ignore[union-attr]
            raise UnsupportedModel(f"{name} is not in memory (offloaded or on meta): load the model whole first")


def _refusal(report: PortabilityReport) -> str:
    first = report.refused[:_MOST_NAMED]
    named = "; ".join(f"{each.module}: {each.reason}; ask for {each.override}" for each in first)
    more = f"; and {len(report.refused) - len(first)} more" if len(report.refused) > len(first) else ""
    return (
        f"{report.target} takes {len(report.verdicts) - len(report.refused)} of {len(report.verdicts)} modules. "
        f"{named}{more}. Quantize anew with the overrides of hf_quant.portability(model, {report.target!r})"
    )


def _add_companions(model: Any, tokenizer: Any, folder: Path) -> None:
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if model.can_generate() and getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)


def _manifest(
    model: Any,
    target: str,
    found: Target,
    report: PortabilityReport,
    comparison: Comparison | None,
    accept: Collection[str],
    options: Mapping[str, Any],
    folder: Path,
    directory: Path,
) -> dict[str, Any]:
    with described(model):
        config = model.config.quantization_config.to_dict()
    tensors = saved_tensors(model)
    fingerprint = tensors_fingerprint(config["plan"], sorted(tensors.items()))
    source = str(getattr(model.config, "name_or_path", ""))
    evidence = _evidence(Path(source), fingerprint) if source else None
    verified = None
    if comparison is not None:
        verified = {"runtime": comparison.runtime, "figures": dict(comparison.figures), "note": comparison.note}
    return {
        "format_version": FORMAT_VERSION,
        "target": target,
        "model": type(model).__name__,
        "source": public_name(source) if source else None,
        "fingerprint": fingerprint,
        "run": found.how_to_run(type(model).__name__, directory.name),
        "verified": verified,
        "options": {name: str(value) for name, value in options.items()},
        "accepted": sorted(accept),
        "portability": report.to_dict(),
        "plan": config["plan"],
        "kept_float": config.get("kept_float") or {},
        "evidence": evidence,
        "versions": {"hf_quant": version("hf-quant"), **found.versions()},
        "files": files_of(folder),
    }


def _evidence(source: Path, fingerprint: str) -> dict[str, Any] | None:
    """The evaluations beside the checkpoint that the model was loaded from, if they are of just these tensors."""
    file = source / EVIDENCE_FILE
    if not file.is_file():
        return None
    report = read_json(file)
    return report.to_dict() if report.checkpoint == fingerprint else None
