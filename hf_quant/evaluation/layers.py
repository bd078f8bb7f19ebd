"""Where in a model the error comes from: each module's output, compared on a few batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_quant.evaluation.batches import batches
from hf_quant.evaluation.float_outputs import float_outputs
from hf_quant.evaluation.models import ModelFacts, ModelPair, evaluating
from hf_quant.evaluation.report import LayerError
from hf_quant.evaluation.tasks.base import Feature, Task

_GROWTH = 2.0
"""Least ratio of a module's error to the largest error before it at which errors are said to grow there."""
_NOTABLE = 0.1
"""Least ratio of a module's error to the largest of all at which it is mentioned."""


def layer_errors(
    pair: ModelPair, task: Task, features: Sequence[Feature], facts: ModelFacts, examples: int, progress: bool
) -> tuple[LayerError, ...]:
    """Relative errors of the outputs of all modules that both models have, in the order in which modules finish.

    Errors add up from the inputs on: a module's own error and what it makes of that of its inputs. Outputs of one batch
    of the reference are in memory at a time. Parts that run as one call are computed module by module meanwhile.

    Args:
        pair: The reference and the quantized model.
        task: The task whose inputs the models are run on.
        features: Features of the data; the first ones are used.
        facts: Facts about the models.
        examples: Number of features to use.
        progress: Show a progress bar.
    """
    sums: dict[str, list[float]] = {}
    kinds = {name: _kind(module) for name, module in _compared(pair.reference, pair.quantized)}
    chosen = features[:examples]
    with (
        evaluating(pair.reference, pair.quantized),
        tqdm(total=len(chosen), desc="layers", disable=not progress) as bar,
    ):
        for indices, batch in batches(chosen, task.size(facts), facts.pad):
            real = batch.tensors.get("attention_mask")
            outputs: dict[str, list[Tensor]] = {}

            def keep(name: str, output: Tensor, outputs: dict[str, list[Tensor]] = outputs) -> None:
                outputs.setdefault(name, []).append(output.clone())

            def compare(
                name: str, output: Tensor, outputs: dict[str, list[Tensor]] = outputs, real: Tensor | None = real
            ) -> None:
                waiting = outputs.get(name)
                if waiting and waiting[0].shape == output.shape:
                    _add(sums.setdefault(name, [0.0, 0.0]), waiting.pop(0), output, real)

            with _watching(pair.reference, kinds, keep):
                pair.run(0, batch.tensors, task.call)
            with _watching(pair.quantized, kinds, compare):
                pair.run(1, batch.tensors, task.call)
            bar.update(len(indices))
    return tuple(
        LayerError(name, kinds[name], (error / size) ** 0.5 if size else float(error > 0), name.count("."))
        for name, (error, size) in sums.items()
    )


def first_growth(layers: Sequence[LayerError]) -> str | None:
    """The first module whose error is at least twice the largest before it, and a tenth of the largest of all.

    Args:
        layers: Errors of modules, in the order of the forward pass.

    Returns:
        Name of the module; None where there are no errors, or they grow evenly.
    """
    notable = _NOTABLE * max((layer.relative_error for layer in layers), default=0.0)
    before = 0.0
    for layer in layers:
        if layer.relative_error >= max(notable, _GROWTH * before) > 0:
            return layer.name
        before = max(before, layer.relative_error)
    return None


def _compared(reference: nn.Module, quantized: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    theirs = dict(quantized.named_modules())
    for name, module in reference.named_modules():
        # Dropout and the like only repeat what comes before them.
        if name and name in theirs and not isinstance(module, nn.Dropout | nn.Identity):
            yield name, module


def _kind(module: nn.Module) -> str:
    return type(module).__name__


@contextmanager
def _watching(model: nn.Module, names: Mapping[str, str], take: Any) -> Iterator[None]:
    """Context in which `take` is called with the name and the first float tensor of each output of some modules."""
    modules = dict(model.named_modules())

    def hook(name: str) -> Any:
        def watch(module: nn.Module, args: Any, output: Any) -> None:
            found = next(float_outputs(output), None)
            if found is not None:
                take(name, found.detach())

        return watch

    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(sums: list[float], reference: Tensor, quantized: Tensor, real: Tensor | None) -> None:
    first, second = reference.float(), quantized.to(reference.device).float()
    if real is not None and first.shape[:2] == real.shape:
        # Nobody reads what is computed for padding.
        keep = real.bool().to(first.device)
        first, second = first[keep], second[keep]
    sums[0] += float((second - first).double().square().sum())
    sums[1] += float(first.double().square().sum())
