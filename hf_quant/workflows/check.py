"""`hf_quant.check`: whether a quantized model computes what its own weights stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.config.name_ranges import in_short
from hf_quant.errors import UnsupportedModel
from hf_quant.evaluation.float_outputs import float_outputs, relative_error
from hf_quant.evaluation.random_inputs import Inputs, run_on_random_inputs
from hf_quant.fusion.convolution import on_taps
from hf_quant.fusion.mixin import Fused, fuse_module, unfuse_module
from hf_quant.integration import attention
from hf_quant.kernels import reference
from hf_quant.kernels.weights import decode_rows, fake_quantize_input, rotate_input
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.filters import convolved
from hf_quant.modules.joined import replaced_output
from hf_quant.modules.quantized_filters import QuantizedFilters
from hf_quant.modules.swap import quantized_modules

EXACT = 1e-3
"""Largest error in norm of what computes the same in another order, in float32."""
_ROWS = 4096
"""Rows of a weight that are decoded at a time."""
_SAMPLE = 1024
"""Most numbers of an output that are kept from one run to the next."""
_ALONE = 8
"""Random rows for a module that the model never called."""


@dataclass(frozen=True)
class ModuleCheck:
    """One quantized module against exact arithmetic on its decoded weight, on the same inputs.

    Args:
        module: Name of the module.
        scheme: Short name of its scheme.
        kernel: What computed it.
        error: Largest error of an output channel in norm, relative to the exact one or, where that is larger, to the
            mean channel; of all calls the one furthest up to its bound.
        bound: Largest error that rounding explains.
        calls: How often the model called it; a module that was not called is checked alone, on random rows.
        read_by: Operation of foreign code that had its weight decoded; None where there was none.
    """

    module: str
    scheme: str
    kernel: str
    error: float
    bound: float
    calls: int
    read_by: str | None

    @property
    def is_right(self) -> bool:
        """Whether the error is within the bound; NaN is not."""
        return self.error <= self.bound


@dataclass(frozen=True)
class CheckReport:
    """Whether a quantized model computes what its weights stand for; ``str(report)`` says it in words.

    Args:
        modules: Every quantized module, in the order of the model.
        inputs: Shapes of the inputs that the model ran on, by name.
        output_error: Error in norm of the model's outputs, relative to a run on decoded weights without fused parts.
        output_bound: Largest such error that rounding explains.
    """

    modules: tuple[ModuleCheck, ...]
    inputs: dict[str, tuple[int, ...]]
    output_error: float
    output_bound: float

    @property
    def wrong(self) -> tuple[ModuleCheck, ...]:
        """Modules that compute something else."""
        return tuple(each for each in self.modules if not each.is_right)

    @property
    def never_called(self) -> tuple[str, ...]:
        """Modules that the model did not call: not chosen, not needed for these inputs, or gone around."""
        return tuple(each.module for each in self.modules if not each.calls)

    @property
    def read(self) -> dict[str, str]:
        """Modules whose weight was decoded for foreign code, to the operation that asked for it."""
        return {each.module: each.read_by for each in self.modules if each.read_by is not None}

    @property
    def is_right(self) -> bool:
        """Whether all modules and the outputs are within their bounds."""
        return not self.wrong and self.output_error <= self.output_bound

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-ready dict."""
        return {"is_right": self.is_right, **asdict(self), "never_called": self.never_called, "read": self.read}

    def __str__(self) -> str:
        inputs = ", ".join(f"{name} {list(shape)}" for name, shape in self.inputs.items())
        worst = max((each.error / each.bound for each in self.modules), default=0.0)
        lines = [
            f"{len(self.modules)} quantized modules on random {inputs}: "
            + (f"{len(self.wrong)} WRONG" if self.wrong else f"all right, errors at most {worst:.0%} of their bounds"),
            f"outputs are {self.output_error:.1e} from those of decoded weights, bound {self.output_bound:.1e}: "
            + ("right" if self.output_error <= self.output_bound else "WRONG"),
        ]
        lines += [f"WRONG {e.module} ({e.scheme}, {e.kernel}): {e.error:.1e}, bound {e.bound:.1e}" for e in self.wrong]
        if self.never_called:
            lines.append(f"never called, checked alone: {', '.join(in_short(self.never_called))}")
        for operation in dict.fromkeys(self.read.values()):
            names = (name for name, by in self.read.items() if by == operation)
            lines.append(f"decoded for each call of {operation}: {', '.join(in_short(names))}")
        return "\n".join(lines)


@torch.no_grad()
def check(model: Any, inputs: Mapping[str, Any] | None = None) -> CheckReport:
    """Compare a quantized model with what its own weights stand for, module by module and as a whole.

    The model runs as it is, and once more with parts unfused, torch's attention, and every quantized module replaced by
    exact arithmetic on its decoded weight; there, what the module itself computes on the same inputs is compared. No
    second model is made: a weight is decoded some rows at a time. Where inputs are quantized, a third run, without
    that, says how much rounding them can change.

    Args:
        model: Quantized Transformers model, in memory.
        inputs: What to call it with, by name; random inputs of what its config says that it reads, unless given.

    Raises:
        UnsupportedModel: The model is not quantized, or its weights are on disk.
        EvaluationError: No inputs are given, and what the model reads is not known.
    """
    modules = dict(quantized_modules(model))
    if not modules:
        raise UnsupportedModel(f"{type(model).__name__} has no quantized modules: there is nothing to check")
    for name, module in modules.items():
        if module.is_offloaded or module._parameters["weight"].is_meta:  # type: ignore[union-attr]
            raise UnsupportedModel(f"{name} is not in memory (offloaded or on meta): load the model whole first")
    run = _Run(model, modules)
    with _evaluating(model), run.watching_reads():
        if inputs is None:
            given, found = run_on_random_inputs(model, run.outputs)
        else:
            given, found = dict(inputs), run.outputs(dict(inputs))
        with _unfused(model):
            with run.exact(rounded=True):
                expected = run.outputs(given)
            bound = EXACT + 8 * _rounding(found)
            if any(run.calls[name] and module.spec.scheme.input for name, module in modules.items()):
                with run.exact(rounded=False):
                    changed = relative_error(run.outputs(given), expected)
                # Two runs that round every input otherwise differ by the root of two times as much, and by chance by
                # more where an output is a few numbers only; there, what is typical of modules says more.
                few = min((tensor.numel() for tensor in expected), default=1)
                bound += 2 * (1 + 3 / max(1, few) ** 0.5) * max(changed, run.typical_change())
            run.call_the_rest()
    rows = tuple(
        ModuleCheck(
            name,
            str(module.spec.scheme),
            module.kernel or "gather",
            run.errors[name],
            run.bounds[name],
            run.calls[name],
            run.reads.get(name),
        )
        for name, module in modules.items()
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items() if isinstance(tensor, Tensor)}
    return CheckReport(rows, shapes, relative_error(found, expected), bound)


class _Run:
    """What is seen of a model's quantized modules while it runs."""

    def __init__(self, model: Any, modules: dict[str, QuantizedModule]):
        self.model, self.modules = model, modules
        self.errors, self.bounds = dict.fromkeys(modules, 0.0), dict.fromkeys(modules, EXACT)
        self.calls = dict.fromkeys(modules, 0)
        self.reads: dict[str, str] = {}
        self.samples: dict[str, Tensor] = {}
        self.changes: list[float] = []

    def typical_change(self) -> float:
        """Median of what rounding all inputs changes in outputs of modules, by a sample of the first call of each."""
        return sorted(self.changes)[len(self.changes) // 2] if self.changes else 0.0

    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """Tensors of floats that the model gives; the same random numbers are drawn in every run."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return [tensor.clone() for tensor in float_outputs(self.model(**inputs))]

    @contextmanager
    def exact(self, rounded: bool) -> Iterator[None]:
        """Context in which modules give what their weights stand for; with `rounded` their own output is compared."""

        def watching(name: str) -> Any:
            def watch(module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
                input = args[0] if args else kwargs["input"]
                expected = _expected(module, input, rounded, args[1:])
                output = _fused(module, (input, *args[1:]), output)
                sample = expected.flatten()[:: expected.numel() // _SAMPLE + 1].clone()
                if rounded:
                    self.calls[name] += 1
                    self.samples.setdefault(name, sample)
                    self._compare(name, input, output, expected)
                elif (before := self.samples.pop(name, None)) is not None and before.shape == sample.shape:
                    self.changes.append(relative_error([sample], [before]))
                return expected

            return watch

        with ExitStack() as replaced:
            for name, module in self.modules.items():
                replaced.enter_context(replaced_output(module, watching(name)))
            yield

    def call_the_rest(self) -> None:
        """Check modules that were not called on random rows."""
        generator = torch.Generator().manual_seed(0)
        for name, module in self.modules.items():
            if not self.calls[name]:
                spec, device = module.spec, module.weight.device
                others: tuple[Any, ...] = ()
                if isinstance(module, QuantizedFilters):
                    sizes = (_ALONE, module.channels * spec.out_features, *(2 * size for size in module.kernel_size))
                    input = torch.randn(sizes, generator=generator).to(device, module.weight.dtype)
                    others = ([(size, 1, 1) for size in module.kernel_size],)
                elif module.multiplies:
                    input = torch.randn(_ALONE, spec.in_features, generator=generator).to(device, module.weight.dtype)
                else:
                    input = torch.randint(spec.out_features, (_ALONE,), generator=generator).to(device)
                found = _fused(module, (input, *others), (module.alone or module)(input, *others))
                self._compare(name, input, found, _expected(module, input, True, others))

    @contextmanager
    def watching_reads(self) -> Iterator[None]:
        """Context after which `reads` has the modules whose weight foreign code had decoded in it."""
        weights = {name: module.weights["weight"] for name, module in self.modules.items() if module.weights}
        before = {weight: weight.read_by for weight in weights.values()}
        for weight in before:
            weight.read_by = None
        try:
            yield
        finally:
            self.reads = {name: weight.read_by for name, weight in weights.items() if weight.read_by is not None}
            for weight, told in before.items():
                weight.read_by = told or weight.read_by

    def _compare(self, name: str, input: Tensor, output: Tensor, expected: Tensor) -> None:
        bound = EXACT + _rounding([expected])
        scheme = self.modules[name].spec.scheme.input
        if scheme is not None:
            # An input halfway between two codes may get either; of many inputs few do.
            bound += 8 * 2.0 ** (1 - scheme.bits) / max(1, input.numel()) ** 0.5
        if isinstance(self.modules[name], QuantizedFilters):
            output, expected = output.movedim(1, -1), expected.movedim(1, -1)
        error = _worst_channel(output, expected)
        if not error / bound <= self.errors[name] / self.bounds[name]:
            self.errors[name], self.bounds[name] = error, bound


def _fused(module: QuantizedModule, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """What the kernel gives that only the convolution around some filters calls; of other modules their own output."""
    is_fused = isinstance(module, QuantizedFilters) and module.taps is not None
    return on_taps(module, *args) if is_fused else output  # type: ignore[arg-type]


def _expected(module: QuantizedModule, input: Tensor, rounded: bool, others: tuple[Any, ...] = ()) -> Tensor:
    """What a module stands for, in float64; its inputs are rounded as the scheme says if `rounded`.

    `others` are the arguments that follow the input.
    """
    spec = module.spec
    if isinstance(module, QuantizedFilters):
        steps, bias = (*others, None)[:2]
        given = module.rounded(input.float()) if rounded else input
        rows = reference.embedding(torch.arange(spec.out_features), module.neutral(), spec, torch.float64)
        bias = None if bias is None else bias.double()
        return convolved(given.double(), rows, steps, bias).to(input.dtype)
    if not module.multiplies:
        return reference.embedding(input, module.neutral(), spec, module.weight.dtype)
    operands = replace(module.operands(), weight=module.neutral(), packed=())
    rows = input.reshape(-1, spec.in_features)
    left = (fake_quantize_input(rows, operands, spec) if rounded else rotate_input(rows, spec)).double()
    parts = [slice(start, min(start + _ROWS, spec.out_features)) for start in range(0, spec.out_features, _ROWS)]
    output = torch.cat([left @ decode_rows(operands, spec, part).double().t() for part in parts], -1)
    output = output if operands.bias is None else output + operands.bias
    return output.to(input.dtype).view(*input.shape[:-1], spec.out_features)


def _worst_channel(found: Tensor, expected: Tensor) -> float:
    """Largest error of a channel (last dimension) in norm, so that a single wrong row of a weight is seen."""
    one, other = (tensor.double().reshape(-1, expected.shape[-1]) for tensor in (found, expected))
    finite = other.isfinite()
    if not torch.equal(finite, one.isfinite()):
        return float("inf")
    sizes = other.where(finite, 0.0).norm(dim=0)
    errors = (one - other).where(finite, 0.0).norm(dim=0)
    return float((errors / sizes.clamp(min=float(sizes.mean()) + 1e-30)).max()) if errors.numel() else 0.0


def _rounding(tensors: list[Tensor]) -> float:
    """Step of the coarsest dtype of some tensors."""
    return max((torch.finfo(tensor.dtype).eps for tensor in tensors), default=0.0)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _unfused(model: nn.Module) -> Iterator[None]:
    """Context in which no part of a model is fused, and attention is torch's."""
    fused = [(each, type(each).__bases__[0], each.fused) for each in model.modules() if isinstance(each, Fused)]
    is_native = attention.uses_native(model)
    for module, _, _ in fused:
        unfuse_module(module)
    attention.restore(model)
    try:
        yield
    finally:
        for module, mixin, facts in fused:
            fuse_module(module, mixin, facts)
        if is_native:
            attention.choose(model)
