"""Parameter groups of learned grids: a learning rate of their own, and no weight decay."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from hf_quant.errors import ConfigError
from hf_quant.qat.input import StaticInput
from hf_quant.qat.learned_grid import LearnedGrid
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.qat.sharded import whole

KEY = "hf_quant_grids"
"""Key of a parameter group for the grids that it holds."""


def learned_grids(model: nn.Module) -> dict[str, list[LearnedGrid]]:
    """Grids by what they are for, ``"weight 4"`` or ``"input 8"``: those of one kind have scales of one size."""
    found: dict[str, list[LearnedGrid]] = {}
    for _, module in fake_quantized_modules(model):
        if not module.scheme.weight.has_scales:
            continue
        if module.sharing[0] is module and module.weight_quantizer.grid is not None:
            found.setdefault(f"weight {module.scheme.weight.bits}", []).append(module.weight_quantizer.grid)
        if isinstance(module.input_quantizer, StaticInput):
            found.setdefault(f"input {module.input_quantizer.scheme.bits}", []).append(module.input_quantizer.grid)
    return dict(sorted(found.items()))


def base_rate(optimizer: Any, args: Any) -> float:
    """Learning rate of the weights, before any schedule; that of ``TrainingArguments`` where `optimizer` has none."""
    rate = getattr(optimizer, "defaults", {}).get("lr")
    return float(args.learning_rate if rate is None else rate)


def add_groups(optimizer: Any, model: nn.Module, rate: float | None, base: float, scheduler: Any = None) -> None:
    """Move the grids of `model` to groups of their own.

    Args:
        optimizer: Holds them among other parameters, or not at all.
        model: Model with quantization in the loop, from `prepare`.
        rate: Their learning rate; None: see `relative_rate`.
        base: Learning rate of the weights.
        scheduler: Learning rate scheduler of `optimizer`, if there is one already.

    Raises:
        ConfigError: The scheduler is of a kind that cannot be told of more groups.
    """
    kinds = learned_grids(model)
    own = {id(parameter) for grids in kinds.values() for grid in grids for parameter in grid.parameters()}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
    if kinds and scheduler is not None and not isinstance(scheduler, LambdaLR):
        raise ConfigError(
            f"a {type(scheduler).__name__} cannot be told of the parameter groups of learned scales: pass "
            'optimizers=(optimizer, None) and lr_scheduler_type, or QATCallback(..., weights="minmax")'
        )
    for kind, grids in kinds.items():
        parameters = [parameter for grid in grids for parameter in grid.parameters() if parameter.requires_grad]
        if not parameters:
            continue
        chosen = relative_rate(grids, model, base) if rate is None else rate
        optimizer.add_param_group({"params": parameters, "lr": chosen, "weight_decay": 0.0, KEY: kind})
        if scheduler is not None:
            optimizer.param_groups[-1]["initial_lr"] = chosen
            scheduler.base_lrs.append(chosen)
            scheduler.lr_lambdas.append(copy.copy(scheduler.lr_lambdas[0]))
            factor = scheduler.lr_lambdas[0](scheduler.last_epoch)
            optimizer.param_groups[-1]["lr"] = chosen * factor
            scheduler._last_lr.append(chosen * factor)


def update_rates(optimizer: Any, scheduler: Any, model: nn.Module, base: float) -> None:
    """`relative_rate` anew, once grids were taken anew: where the schedule is, it stays."""
    kinds = learned_grids(model)
    bases = getattr(scheduler, "base_lrs", None)  # ReduceLROnPlateau has none: it multiplies what rates are
    reduced = optimizer.param_groups[0]["lr"] / base if base else 1.0
    for index, group in enumerate(optimizer.param_groups):
        if group.get(KEY) not in kinds:
            continue
        rate = relative_rate(kinds[group[KEY]], model, base)
        if "initial_lr" in group:
            before = group["initial_lr"]
            group["lr"] = group["lr"] * rate / before if before else rate
            group["initial_lr"] = rate
        else:
            group["lr"] = rate * reduced
        if bases is not None:
            bases[index] = rate


@torch.no_grad()
def relative_rate(grids: list[LearnedGrid], model: nn.Module, base: float) -> float:
    """The rate with which scales move, in relation to their size, as weights do with the rate `base`.

    Optimizers such as Adam change every parameter by about the learning rate in a step, however large it is, and scales
    are a fraction of the weights. So it is `base` times the geometric mean of the scales, over the root of the mean
    square of the weights. Scales that are not known yet count as the weights do.
    """
    logs = [whole(grid.scale).abs().log().mean() for grid in grids if grid.is_initialised]
    if not logs:
        return base
    weights = (whole(module.weight) for _, module in fake_quantized_modules(model) if module.sharing[0] is module)
    square, count = 0.0, 0
    for weight in weights:
        square, count = square + float(weight.float().square().sum()), count + weight.numel()
    scale = float(torch.stack(logs).mean().exp())
    return base * scale / max((square / count) ** 0.5, 1e-12)
