"""Inputs that are rounded, in training, as kernels round them."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import CalibrationError
from hf_quant.formats import AffineFormat, even_format
from hf_quant.observers.moving_average import MovingAverage
from hf_quant.qat.fake_quantize import LSQ, PACT, STRAIGHT, FakeQuantize
from hf_quant.qat.learned_grid import LearnedGrid
from hf_quant.qat.options import QATOptions
from hf_quant.qat.sharded import is_distributed
from hf_quant.qat.straight_through import Rotate


class DynamicInput(nn.Module):
    """Rounds each input with scales of its own, per token, group or tensor; the gradient passes straight through.

    Args:
        scheme: Formats of the module's weight and input; the input's is dynamic, or None where inputs are only rotated.
    """

    def __init__(self, scheme: Scheme):
        super().__init__()
        self.scheme, self.rotation = scheme.input, scheme.weight.rotation
        self.format = None if scheme.input is None else even_format(scheme.input)
        self.enabled = True

    def forward(self, input: Tensor) -> Tensor:
        """Inputs ``[..., features]`` on their grid, and rotated where the weight is; float32 if either was done."""
        if self.rotation is not None:
            input = Rotate.apply(input, self.rotation)
        if self.scheme is None or not self.enabled or input.numel() == 0:
            return input
        real = input.to(torch.float32)
        format = self.format
        assert format is not None
        per_tensor = self.scheme.granularity == "tensor"
        rows = real.reshape(-1, self.scheme.group_size or real.shape[-1])
        scale, zero_point = dynamic_grid(rows.detach(), format, per_tensor)
        return FakeQuantize.apply(rows, scale, zero_point, format, STRAIGHT).view(real.shape)


class StaticInput(nn.Module):
    """Rounds all inputs to one learned grid, which starts from the range that was observed.

    While `observing`, inputs pass as they are and, in training, are noted; `next_step` takes the extremes of a step
    into the running range, so that neither accumulated batches nor activations that are computed twice count more than
    once. Padding counts as any token does.

    Args:
        scheme: Formats of the module's weight and input; the input's is static.
        width: Features of an input.
        options: How the grid is learned.
        device: Device of the parameters.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, scheme: Scheme, width: int, options: QATOptions, device: torch.device | None = None):
        super().__init__()
        assert scheme.input is not None
        self.scheme: TensorScheme = scheme.input
        self.format = even_format(scheme.input)
        self.rotation = scheme.weight.rotation
        self.gradient = PACT if options.inputs == "pact" else LSQ
        self.enabled, self.observing = True, False
        self.grid = LearnedGrid(scheme.input, (1, 1), width, device)
        # The state of the observer, where a checkpoint keeps it.
        self.register_buffer("low", torch.zeros((), device=device))
        self.register_buffer("high", torch.zeros((), device=device))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=device))
        self._step: tuple[Tensor, Tensor] | None = None
        self._has_grid = False
        """Whether the grid is known to be initialised: asking the grid itself waits for the device."""

    def forward(self, input: Tensor) -> Tensor:
        """Inputs ``[..., features]`` rounded to the grid, and rotated where the weight is; float32 if either was done.

        Raises:
            CalibrationError: There is no grid yet.
        """
        if self.rotation is not None:
            input = Rotate.apply(input, self.rotation)
        if input.numel() == 0:
            return input
        if self.observing:
            if self.training:
                self._observe(input.detach())
            return input
        if not self.enabled:
            return input
        if not self._has_grid and not torch.compiler.is_compiling():
            self._has_grid = self._require_grid()
        real = input.to(torch.float32)
        scale, zero_point = self.grid()
        rows = real.reshape(-1, real.shape[-1])
        return FakeQuantize.apply(rows, scale, zero_point, self.format, self.gradient, self.grid.gradient_scale).view(
            real.shape
        )

    @torch.no_grad()
    def next_step(self, name: str) -> None:
        """Update the observed range with the inputs since the last call, in all processes that train together.

        Raises:
            CalibrationError: The inputs held NaN or infinity.
        """
        if self.observing and is_distributed():
            self._step = self._of_all_processes()
        if self._step is None:
            return
        observer = self._observer()
        try:
            observer.update(torch.stack(self._step).view(1, 2))
        except CalibrationError as error:
            raise CalibrationError(f"inputs of {name}: {error}") from error
        for key, value in observer.state().items():
            getattr(self, key).copy_(value)
        self._step = None

    @torch.no_grad()
    def initialise(self, name: str) -> None:
        """Set the learned grid from the range that was observed.

        Raises:
            CalibrationError: No input was observed.
        """
        if int(self.batches) == 0:
            raise CalibrationError(
                f"no input of {name} was observed, so its static grid has no range: give observer_steps of at least 1, "
                "and end no earlier than they do"
            )
        scale, zero_point = self.format.scale_and_zero_point(self.low, self.high)
        self.grid.initialise(self.scheme, scale.view(1, 1), None if zero_point is None else zero_point.view(1, 1))

    @torch.no_grad()
    def solved(self) -> tuple[Tensor, Tensor | None]:
        """The grid as it would be stored now: float32 scale and integer zero point ``[1, 1]`` (None when symmetric)."""
        scale, zero_point = self.grid()
        return scale, None if zero_point is None else zero_point.to(self.format.dtype)

    def _require_grid(self) -> bool:
        if not self.grid.is_initialised:
            raise CalibrationError(
                "a static input was never observed, so it has no range to round to: train with hf_quant.QATCallback(), "
                "which observes in its observer_steps"
            )
        return True

    def _observer(self) -> MovingAverage:
        state = {"low": self.low, "high": self.high, "batches": self.batches} if int(self.batches) else {}
        return MovingAverage.from_state(self.format, state)

    def _of_all_processes(self) -> tuple[Tensor, Tensor] | None:
        """The extremes of a step; processes where nothing came by do not count."""
        none = torch.full_like(self.low, torch.inf, dtype=torch.float32)
        low, high = self._step or (none, -none)
        # A maximum may pass over NaN, but not over infinity.
        extremes = torch.stack([-low, high]).nan_to_num(torch.inf, torch.inf, -torch.inf)
        distributed.all_reduce(extremes, op=distributed.ReduceOp.MAX)
        return None if bool((extremes == -torch.inf).all()) else (-extremes[0], extremes[1])

    def _observe(self, input: Tensor) -> None:
        low, high = torch.aminmax(input.to(torch.float32))
        if self._step is not None:
            low, high = torch.minimum(low, self._step[0]), torch.maximum(high, self._step[1])
        self._step = (low, high)


def dynamic_grid(rows: Tensor, format: AffineFormat, per_tensor: bool) -> tuple[Tensor, Tensor | None]:
    """Grid of dynamic inputs: scale and zero point (None when symmetric), float32 ``[rows, 1]``, ``[1, 1]`` per tensor.

    The numbers are those of `AffineFormat.quantize_input`.

    Args:
        rows: Tokens, or groups of them, float32 ``[rows, n]``.
        format: Format that the rows are rounded to.
        per_tensor: Whether all rows share one scale.
    """
    rows = rows.reshape(1, -1) if per_tensor else rows
    # `aminmax` along a dimension is several times as slow as both of these.
    low, high = rows.amin(-1), rows.amax(-1)
    # The grid of a row is that of its two extremes.
    _, scale, zero_point = format.quantize_input(torch.stack([low, high], -1))
    return scale, None if zero_point is None else zero_point.to(torch.float32)
