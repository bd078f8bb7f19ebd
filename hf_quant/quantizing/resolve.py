"""From a config and a model to the plan that is carried out, and the reasons for what stays float."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, replace

from torch import nn
from transformers.quantizers.quantizers_utils import should_convert_module

from hf_quant.config.name_ranges import as_expression, has_ranges
from hf_quant.config.plan import Plan, unmatched
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError
from hf_quant.modules.inventory import Inventory
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.left_float import BY_PLAN, LEFT_OUT, NOT_IN_PLAN


@dataclass(frozen=True)
class Resolution:
    """What will be quantized and what will not.

    Args:
        plan: Exact names to schemes.
        ties: Module whose weight belongs to another, to that other, among the modules of `plan`; without those of which
            the checkpoint holds a weight of its own.
        kept_float: Every other module that holds weights, to the reason.
        inventory: Candidates and ties of the float model.
    """

    plan: Plan
    ties: dict[str, str]
    kept_float: dict[str, str]
    inventory: Inventory


def resolve(model: nn.Module, config: HfQuantConfig, in_checkpoint: Container[str] | None = None) -> Resolution:
    """Settle which modules of a float model are quantized, and how.

    Args:
        model: Float, on meta or real devices.
        config: What to quantize to, as the user said it.
        in_checkpoint: Names of the parameters that the checkpoint holds; None when the model holds its weights.

    Raises:
        PlanError: A pattern, or an entry of modules_to_not_convert, matches nothing; a group size does not fit; or
            tied modules get different weights.
    """
    inventory = Inventory.of(model)
    left_out = _left_out(model, config.modules_to_not_convert or ())
    requested = config.requested_plan(inventory.candidates).modules
    reasons: dict[str, str] = {}
    for name in inventory.candidates:
        reason = _reason_for_float(name, model, left_out, requested, inventory, in_checkpoint)
        if reason is not None:
            reasons[name] = reason
    chosen = inventory.carried_out(requested, reasons)
    ties = inventory.ties_among(chosen, in_checkpoint)
    unsupported = {name: LEFT_OUT if name in left_out else why for name, why in inventory.unsupported.items()}
    return Resolution(Plan(chosen), ties, {**reasons, **unsupported}, inventory)


def with_closed(resolution: Resolution, model: nn.Module, closed: Collection[str]) -> Resolution:
    """A resolution made while modules were open, of which nothing is quantized, for when they are closed again.

    Args:
        resolution: Made of the opened model.
        model: As it is now, its other modules float still.
        closed: Names of the closed modules: each stays float for the reason of the first of those that were in it.
    """
    if not closed:
        return resolution
    reasons = dict(resolution.kept_float)
    for name in closed:
        inner = [each for each in reasons if each.startswith(f"{name}.")]
        for reason in [reasons.pop(each) for each in inner][:1]:
            reasons.setdefault(name, reason)
    return replace(resolution, kept_float=reasons, inventory=Inventory.of(model))


def _left_out(model: nn.Module, entries: Collection[str]) -> set[str]:
    """Names of the modules that entries match as Transformers matches them, and of all modules inside of these."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    left_out: set[str] = set()
    for entry in entries:
        matched = _left_out_by(entry, names)
        if not matched:
            ends = {".".join(name.split(".")[-1 - entry.count(".") :]): None for name in names}
            raise PlanError(unmatched("entry of modules_to_not_convert (--keep-float)", entry, [*ends, *names]))
        left_out |= matched
    for name in names:  # parents come first: "vision_tower" matches model.vision_tower, and means what is in it
        if name.rpartition(".")[0] in left_out:
            left_out.add(name)
    return left_out


def _left_out_by(entry: str, names: Collection[str]) -> set[str]:
    if not has_ranges(entry):
        return {name for name in names if not should_convert_module(name, [entry])}
    end = re.compile(rf".*(?:{as_expression(entry)})")
    return {name for name in names if end.fullmatch(name) or not should_convert_module(name, [as_expression(entry)])}


def _reason_for_float(
    name: str,
    model: nn.Module,
    left_out: Container[str],
    requested: Mapping[str, Scheme | None],
    inventory: Inventory,
    in_checkpoint: Container[str] | None,
) -> str | None:
    if name not in requested:
        return NOT_IN_PLAN
    if requested.get(name) is None:
        return BY_PLAN
    weight = model.get_submodule(name).weight
    if isinstance(weight, nn.Parameter) and weight.numel() == 0:
        return "it has no weights"
    if name in left_out:
        return LEFT_OUT
    keep = getattr(model, "_keep_in_fp32_modules", None)
    if keep and not should_convert_module(name, list(keep)):
        return "the model class keeps it in float32"
    if in_checkpoint is None or name in inventory.held:
        return None
    if not any(f"{member}.weight" in in_checkpoint for member in inventory.group(name)):
        return "not in the checkpoint: newly initialised, to be trained"
    return None
