"""Second-order losses with the empirical Fisher matrix in the place of the Hessian, diagonal (cf. arXiv:2306.07629).

Quantizing moves a weight by ``d`` and the loss by about ``d^T H d / 2``, the gradient being nearly zero in a trained
model. With ``H`` replaced by the mean of squared gradients of single tokens' losses, its diagonal alone,

    loss = 1/2 * sum_w F_w d_w^2,    F_w = mean over tokens of g_w^2,

and likewise for inputs, whose errors are those of each token. One backward pass a sequence serves all schemes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_quant.algorithms.rounding import rounded_input, rounded_weight
from hf_quant.calibration.pairs import weight_matrix
from hf_quant.config.plan import Candidate, fit
from hf_quant.config.scheme import Scheme
from hf_quant.errors import CalibrationError, PlanError
from hf_quant.formats import float_format
from hf_quant.modules.swap import candidates, tied_modules
from hf_quant.planner.sensitivity.table import LossTable

_IGNORED = -100


def fisher(
    model: Any, batches: Sequence[Mapping[str, Tensor]], schemes: Sequence[Scheme], progress: bool = True
) -> LossTable:
    """Losses in nats: of a token for language models, of an example for others.

    Memory: beside the model, its gradients once and squares of gradients once, in float32.

    Args:
        model: Float, with a head that computes a loss; its parameters are not changed.
        batches: ``input_ids``, ``attention_mask``, and ``labels`` unless the model writes text.
        schemes: With integer or float weights; inputs dynamic or none.
        progress: Show a progress bar.

    Raises:
        CalibrationError: There is no data, no loss without labels, or a loss is NaN.
        PlanError: A gradient is NaN (the module is named).
    """
    found = candidates(model)
    fitted = {name: [_fitted(scheme, entry, name) for scheme in schemes] for name, entry in found.items()}
    sequences = [row for batch in batches for row in _rows(batch, model)]
    if not sequences:
        raise CalibrationError("there is no data to measure sensitivities on: give texts")
    owners = {name: tied_modules(model).get(name, name) for name in found}
    weights = {name: model.get_submodule(name).weight for name in found if owners[name] == name}
    squares = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    inputs = {name: [0.0] * len(schemes) for name in found}
    with _gradients_of(model, list(weights.values())), _watching(model, fitted, inputs) as counted:
        for row in tqdm(sequences, desc="Sensitivity", disable=not progress):
            tokens = _tokens(row)
            counted.tokens = tokens
            loss = model(**row).loss
            if not bool(torch.isfinite(loss)):
                raise CalibrationError("the model's loss is NaN or infinite on the data: load it in float32")
            (loss * tokens).backward()
            for name, weight in weights.items():
                if weight.grad is not None:
                    squares[name].addcmul_(weight.grad.float(), weight.grad.float(), value=1 / tokens)
                    weight.grad = None
    rows = []
    for name in tqdm(found, desc="Schemes", disable=not progress):
        module = model.get_submodule(name)
        mine = owners[name] == name
        mean = weight_matrix(module, squares[name]) / len(sequences) if mine else None
        losses: list[float | None] = []
        for index, scheme in enumerate(fitted[name]):
            if scheme is None:
                losses.append(None)
                continue
            by_weight = 0.0 if mean is None else 0.5 * _weighted(weight_matrix(module).detach(), scheme, mean, name)
            losses.append(by_weight + 0.5 * inputs[name][index] / len(sequences))
        rows.append(tuple(losses))
    unit = "nats per token" if _writes(model) else "nats per example"
    return LossTable("fisher", unit, tuple(found), tuple(schemes), tuple(rows))


@torch.no_grad()
def _weighted(weight: Tensor, scheme: Scheme, mean: Tensor, name: str) -> float:
    if scheme.weight.is_integer:
        rounded = rounded_weight(weight, scheme.weight, name)
    else:
        rounded = weight.to(float_format(scheme.weight).dtype).to(torch.float32)
    return float((rounded.sub_(weight.to(torch.float32)).square_() * mean).sum())


class _Counted:
    tokens: int = 1


@contextmanager
def _watching(
    model: nn.Module, fitted: Mapping[str, Sequence[Scheme | None]], sums: Mapping[str, list[float]]
) -> Iterator[_Counted]:
    """Add to `sums` what rounding inputs costs, ``sum g_x^2 d_x^2 / tokens``, as gradients come back."""
    counted = _Counted()
    handles = []
    for name, schemes in fitted.items():
        if not any(scheme is not None and scheme.input is not None for scheme in schemes):
            continue
        handles.append(model.get_submodule(name).register_forward_pre_hook(_hook(schemes, sums[name], counted)))
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


def _hook(schemes: Sequence[Scheme | None], sums: list[float], counted: _Counted) -> Any:
    def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor) or not args[0].requires_grad:
            return
        real = args[0].detach()

        def take(gradient: Tensor) -> None:
            rows, square = real.flatten(0, -2).float(), gradient.detach().flatten(0, -2).float().square()
            known: dict[Any, float] = {}
            for index, scheme in enumerate(schemes):
                if scheme is None or scheme.input is None:
                    continue
                key = (scheme.input, scheme.weight.rotation)
                if key not in known:
                    change = rounded_input(rows, scheme, rows.abs().amax(0)) - rows
                    known[key] = float((square * change.square_()).sum()) / counted.tokens
                sums[index] += known[key]

        args[0].register_hook(take)

    return watch


@contextmanager
def _gradients_of(model: nn.Module, weights: list[nn.Parameter]) -> Iterator[None]:
    """Evaluation, and gradients of these weights alone; undone at the end."""
    training, wanted = model.training, {id(weight) for weight in weights}
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _, _ in before:
        parameter.requires_grad_(id(parameter) in wanted)
        parameter.grad = None
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, requires, gradient in before:
            parameter.requires_grad_(requires)
            parameter.grad = gradient
        model.train(training)


def _rows(batch: Mapping[str, Tensor], model: Any) -> Iterator[dict[str, Any]]:
    """One sequence at a time, without padding, with labels."""
    if "labels" not in batch and not _writes(model):
        raise CalibrationError(f"a {type(model).__name__} has no loss without labels: give batches with labels")
    device = next(model.parameters()).device
    for index in range(len(batch["input_ids"])):
        row = {name: tensor[index : index + 1].to(device) for name, tensor in batch.items()}
        mask = row.get("attention_mask")
        if "labels" not in row:
            ids = row["input_ids"]
            row["labels"] = ids if mask is None else ids.masked_fill(mask == 0, _IGNORED)
        yield {**row, **({"use_cache": False} if _writes(model) else {})}


def _tokens(row: Mapping[str, Any]) -> int:
    """How many losses the model's mean is of."""
    labels = row["labels"]
    if labels.ndim < 2:
        return 1
    counted = labels[:, 1:] if "use_cache" in row else labels
    return max(1, int((counted != _IGNORED).sum()))


def _writes(model: Any) -> bool:
    return bool(getattr(model, "can_generate", lambda: False)())


def _fitted(scheme: Scheme, candidate: Candidate, name: str) -> Scheme | None:
    try:
        return fit(scheme, candidate, name)
    except PlanError:
        return None
