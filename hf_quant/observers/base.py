"""What an observer is: it sees values batch by batch, in bounded memory, and proposes the range of their grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import distributed

from hf_quant.errors import CalibrationError, ConfigError
from hf_quant.formats.affine import AffineFormat
from hf_quant.registry import unknown

State = dict[str, torch.Tensor]
Range = tuple[torch.Tensor, torch.Tensor]
Self = TypeVar("Self", bound="Observer")


class Observer(ABC):
    """Summarises values as a state, a few tensors on the CPU; states combine. Every operation replaces the state.

    Args:
        format: Integer format that the range is for.
        granularity: ``"tensor"``: one range. ``"channel"``: one for each feature, if the observer is able to. There is
            none per token: such scales are computed from each input.

    Raises:
        ConfigError: The observer has no such granularity.
    """

    granularities: ClassVar[tuple[str, ...]] = ("tensor",)
    fields: ClassVar[tuple[str, ...]] = ("low", "high")
    """Names of the tensors of a state."""

    def __init__(self, format: AffineFormat, granularity: str = "tensor"):
        if granularity not in self.granularities:
            raise ConfigError(unknown(f"granularity of {type(self).__name__}", granularity, self.granularities))
        self.format = format
        self.granularity = granularity
        self._state: State = {}

    def update(self, values: torch.Tensor, keep: torch.Tensor | None = None) -> None:
        """Update the state with a batch of values.

        Args:
            values: Values ``[..., features]`` of any float dtype and device.
            keep: Tokens that count, bool ``[...]``; None for all. What others hold, NaN too, makes no difference.

        Raises:
            CalibrationError: NaN or infinite values, `keep` of another shape, or another number of features than before
                where each feature has its range.
        """
        if keep is not None and keep.shape != values.shape[:-1]:
            raise CalibrationError(
                f"keep has shape {tuple(keep.shape)}: give one bool for each token, {tuple(values.shape[:-1])}"
            )
        tokens = values.detach().unsqueeze(0) if values.ndim == 1 else values.detach()
        tokens = tokens.flatten(0, -2) if keep is None else tokens[keep.to(values.device, torch.bool)].flatten(0, -2)
        if tokens.numel():
            batch = self._summary(_finite(tokens.to(torch.float32)))
            self._state = self._next(self._state, self._fitting(batch)) if self._state else batch

    def merge(self: Self, other: Self) -> None:
        """Add what `other`, of the same kind and options, has seen. `other` is not changed.

        Raises:
            CalibrationError: The two differ in kind, options or number of features.
        """
        if type(other) is not type(self) or other._options() != self._options():
            raise CalibrationError(f"cannot merge {other!r} into {self!r}: make both with the same options")
        if self._state and other._state:
            self._state = self._combine(self._state, self._fitting(other._state))
        else:
            self._state = self._state or other._state

    def range(self) -> Range:
        """Low and high end of the range to quantize, float32, 0-dimensional or ``[features]``.

        Raises:
            CalibrationError: No value was observed.
        """
        if not self._state:
            raise CalibrationError("no input was observed: calibrate on data that reaches the module, or skip it")
        return self._range(self._state)

    def state(self) -> State:
        """Tensors of the state by name, as `from_state` takes them; empty if nothing was observed."""
        return dict(self._state)

    @classmethod
    def from_state(cls: type[Self], format: AffineFormat, state: Mapping[str, torch.Tensor], **options: Any) -> Self:
        """An observer with `options` that has seen what the one that gave `state` had.

        Raises:
            CalibrationError: `state` is of another kind of observer, or of other options.
        """
        observer = cls(format, **options)
        observer._state = observer._loaded(state) if state else {}
        return observer

    def reduce(self) -> None:
        """Merge over all ranks of `torch.distributed`, if it is initialised; all ranks end with the same state."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        states: list[State] = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(states, self._state)
        present = [state for state in states if state]
        self._state = present[0] if present else {}
        for state in present[1:]:
            self._state = self._combine(self._state, self._fitting(state))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        return f"{type(self).__name__}({options})"

    @abstractmethod
    def _summary(self, values: torch.Tensor) -> State:
        """The state after one batch: finite float32 ``[tokens, features]``, at least one number."""

    @abstractmethod
    def _combine(self, first: State, second: State) -> State:
        """The state of an observer that saw what both did; neither is changed."""

    def _next(self, state: State, batch: State) -> State:
        """The state after one more batch."""
        return self._combine(state, batch)

    def _range(self, state: State) -> Range:
        return state["low"], state["high"]

    def _loaded(self, state: Mapping[str, torch.Tensor]) -> State:
        """A state from elsewhere, checked and on the CPU."""
        if set(state) != set(self.fields):
            raise CalibrationError(f"a state of {type(self).__name__} holds {list(self.fields)}, not {sorted(state)}")
        return {name: tensor.cpu() for name, tensor in state.items()}

    def _options(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name[0] != "_"}

    def _fitting(self, state: State) -> State:
        if state["low"].shape != self._state["low"].shape:
            shapes = [tuple(each["low"].shape) for each in (self._state, state)]
            raise CalibrationError(f"ranges of shapes {shapes}: use one observer for one module, per channel")
        return state


def grid(observer: Observer) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale (float32) and zero point (None when symmetric) of the observer's format over its range."""
    return observer.format.scale_and_zero_point(*observer.range())


def _finite(values: torch.Tensor) -> torch.Tensor:
    # Extremes of values with NaN are NaN, so the common case needs no mask as large as the values.
    if not torch.isfinite(torch.stack(torch.aminmax(values))).all():
        bad = int((~torch.isfinite(values)).any(-1).sum())
        raise CalibrationError(
            f"{bad} of {len(values)} tokens hold NaN or infinity: run the float model on this batch to find where they "
            "come from, load it in bfloat16 or float32 rather than float16, or skip the module"
        )
    return values
