"""From a config and a model to the plan that is carried out, and the reasons for what stays float."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass

from torch import nn
from transformers.quantizers.quantizers_utils import should_convert_module

from hf_quant.config.plan import Candidate, Plan, unmatched
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError
from hf_quant.integration.config import HfQuantConfig
from hf_quant.modules.swap import candidates, tied_modules


@dataclass(frozen=True)
class Resolution:
    """What will be quantized and what will not.

    Args:
        plan: Exact names to schemes.
        ties: Module whose weight belongs to another, to that other, among the modules of `plan`.
        kept_float: Every other module that holds weights, to the reason.
    """

    plan: Plan
    ties: dict[str, str]
    kept_float: dict[str, str]


def resolve(model: nn.Module, config: HfQuantConfig, in_checkpoint: Container[str] | None = None) -> Resolution:
    """Settle which modules of a float model are quantized, and how.

    Args:
        model: Float, on meta or real devices.
        config: As the user gave it.
        in_checkpoint: Names of the parameters that the checkpoint holds; None when the model holds its weights.

    Raises:
        PlanError: A pattern, or an entry of modules_to_not_convert, matches nothing; a group size does not fit; or
            tied modules get different weights.
    """
    found = candidates(model)
    left_out = _left_out(model, config.modules_to_not_convert or ())
    ties = tied_modules(model)
    requested = config.requested_plan(found).modules
    reasons: dict[str, str] = {}
    for name in found:
        reason = _reason_for_float(name, model, left_out, requested, ties, in_checkpoint)
        if reason is not None:
            reasons[name] = reason
    _keep_tied_together(ties, found, reasons)
    chosen = {name: scheme for name, scheme in requested.items() if scheme is not None and name not in reasons}
    ties = {target: source for target, source in ties.items() if target in chosen and source in chosen}
    _check_tied_schemes(ties, chosen)
    return Resolution(Plan(chosen), ties, {**reasons, **unsupported_modules(model, found)})


def unsupported_modules(model: nn.Module, found: dict[str, Candidate]) -> dict[str, str]:
    """Modules that hold parameters of their own and have no quantized counterpart, to the reason."""
    reasons = {}
    for name, module in model.named_modules():
        if name in found or not any(True for _ in module.parameters(recurse=False)):
            continue
        kind = type(module).__name__
        if "norm" in kind.lower():
            reasons[name] = "normalisation: few weights, sensitive"
        elif all(parameter.ndim < 2 for parameter in module.parameters(recurse=False)):
            reasons[name] = "holds vectors only, such as a bias"
        else:
            reasons[name] = f"no quantized counterpart for {kind}"
    return reasons


def _left_out(model: nn.Module, entries: Collection[str]) -> set[str]:
    """Names of the modules that entries match as Transformers matches them, and of all modules inside of these."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    left_out: set[str] = set()
    for entry in entries:
        matched = {name for name in names if not should_convert_module(name, [entry])}
        if not matched:
            ends = {".".join(name.split(".")[-1 - entry.count(".") :]): None for name in names}
            raise PlanError(unmatched("entry of modules_to_not_convert (--keep-float)", entry, [*ends, *names]))
        left_out |= matched
    for name in names:  # parents come first: "vision_tower" matches model.vision_tower, and means what is in it
        if name.rpartition(".")[0] in left_out:
            left_out.add(name)
    return left_out


def _reason_for_float(
    name: str,
    model: nn.Module,
    left_out: Container[str],
    requested: Mapping[str, Scheme | None],
    ties: dict[str, str],
    in_checkpoint: Container[str] | None,
) -> str | None:
    if name not in requested:
        return "no pattern of the plan matches it"
    if requested.get(name) is None:
        return "the plan keeps it float"
    weight = model.get_submodule(name).weight
    if isinstance(weight, nn.Parameter) and weight.numel() == 0:
        return "it has no weights"
    if name in left_out:
        return "listed in modules_to_not_convert"
    keep = getattr(model, "_keep_in_fp32_modules", None)
    if keep and not should_convert_module(name, list(keep)):
        return "the model class keeps it in float32"
    if in_checkpoint is not None and not _has_weight(name, ties, in_checkpoint):
        return "not in the checkpoint: newly initialised, to be trained"
    return None


def _has_weight(name: str, ties: dict[str, str], in_checkpoint: Container[str]) -> bool:
    group = {name, ties.get(name, name)} | {target for target, source in ties.items() if source == name}
    return any(f"{member}.weight" in in_checkpoint for member in group)


def _keep_tied_together(ties: dict[str, str], found: dict[str, Candidate], reasons: dict[str, str]) -> None:
    # One set of codes serves both ends of a tie, so one end that must stay float keeps the other.
    changed = True
    while changed:
        changed = False
        for pair in ties.items():
            for name, other in (pair, pair[::-1]):
                if name in found and name not in reasons and (other in reasons or other not in found):
                    reasons[name] = f"tied to {other}, which stays float"
                    changed = True


def _check_tied_schemes(ties: dict[str, str], chosen: dict[str, Scheme]) -> None:
    for target, source in ties.items():
        if chosen[target].weight != chosen[source].weight:
            raise PlanError(
                f"{target} ({chosen[target]}) is tied to {source} ({chosen[source]}): one set of codes serves both, "
                "so give both the same weight scheme, or keep both float"
            )
