"""What a kernel is: the contract that every entry of the kernel table fulfils."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import torch

from hf_quant.config.scheme import Scheme
from hf_quant.formats import scale_dtype
from hf_quant.formats.base import Matrix, Tensors


@dataclass(frozen=True)
class LinearSpec:
    """The static facts of one quantized linear: what a kernel decides by whether it can run it."""

    scheme: Scheme
    in_features: int
    out_features: int
    text: str = field(init=False, repr=False, compare=False)
    """`scheme` as ops take it. An attribute, because ``torch.compile`` looks through a function's cache and warns."""
    matrix: Matrix = field(init=False, repr=False, compare=False)
    """The weight."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", scheme_text(self.scheme))
        object.__setattr__(self, "matrix", Matrix(self.scheme.weight, self.out_features, self.in_features))

    @property
    def group_size(self) -> int:
        """Inputs that share a weight scale; `in_features` when scales are per channel or per tensor."""
        return self.matrix.group_size

    @property
    def groups(self) -> int:
        """Groups in one row of the weight."""
        return self.matrix.groups

    @property
    def scale_dtype(self) -> torch.dtype:
        """Dtype of the weight's scales."""
        return scale_dtype(self.scheme.weight)

    @property
    def scale_shape(self) -> tuple[int, int]:
        """Shape of the weight's scales, and of its zero points."""
        return self.matrix.scale_shape


@dataclass(frozen=True)
class LinearOperands:
    """The tensors of one quantized linear.

    Args:
        weight: Tensors by the names of `formats.base.Format.tensors`, in their order: ``codes``, which are without
            storage once a kernel's `packed` replaces them, and others.
        bias: Float ``[out]`` or None.
        input_scale: float32 ``[1]`` for static inputs, else None.
        input_zero_point: int8 or int16 ``[1]`` for static asymmetric inputs, else None.
        packed: What the kernel's `arguments` gave; empty for kernels that read nothing but the neutral codes.
    """

    weight: Tensors
    bias: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None
    input_zero_point: torch.Tensor | None = None
    packed: tuple[torch.Tensor, ...] = ()


class FastLinear(Protocol):
    """A shorter way to what `LinearKernel.run` does, for inputs that need no gradient."""

    def __call__(
        self, input: torch.Tensor, packed: tuple[torch.Tensor, ...], bias: torch.Tensor | None, spec: LinearSpec
    ) -> torch.Tensor:
        """``[..., in] -> [..., out]``; `packed` is what `arguments` returned."""


class LookUp(Protocol):
    """Rows of a weight in the layout of a kernel: what an embedding does that shares it with a head."""

    def __call__(
        self, indices: torch.Tensor, packed: tuple[torch.Tensor, ...], spec: LinearSpec, like: torch.Tensor
    ) -> torch.Tensor:
        """int64 or int32 ``[...]`` to rows ``[..., in]`` in the dtype of `like`; IndexError for one out of range."""


class LinearKernel(Protocol):
    """``input @ weight.T + bias`` with the numerics that the scheme names, its rotation of the input included."""

    name: str
    replaces_weight: bool
    """Whether `lay_out` returns a layout from which `unpack` recovers the neutral codes."""
    alignment: int
    """Bytes that the address of the neutral codes has to be a multiple of, to be read without a copy."""
    fast: FastLinear | None
    """None where there is no shorter way than `run`."""
    look_up: LookUp | None
    """None where rows cannot be read from the layout."""
    fuses: bool
    """Whether the ops of whole blocks (`native_block`, `native_linears`) take its layout."""

    def unsupported(self, spec: LinearSpec, device: torch.device) -> str | None:
        """Why this kernel cannot run `spec` on `device`; None when it can."""

    def lay_out(self, operands: LinearOperands, spec: LinearSpec) -> tuple[torch.Tensor, ...]:
        """The weight in this kernel's layout, or what it needs beside the neutral codes; both may be nothing."""

    def arguments(
        self, layout: tuple[torch.Tensor, ...], operands: LinearOperands | None, spec: LinearSpec
    ) -> tuple[torch.Tensor, ...]:
        """What a call takes: the layout, and what follows from the grid of the inputs.

        Args:
            layout: The laid out weight, as `lay_out` gave it.
            operands: Holds the grid of static inputs; None for look-ups, which have no inputs.
            spec: What the weight was laid out for.
        """

    def unpack(self, layout: tuple[torch.Tensor, ...], spec: LinearSpec) -> torch.Tensor:
        """The neutral int32 words that `lay_out` was given, bit for bit."""

    def run(self, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        """``[tokens, in] -> [tokens, out]`` in the dtype of `input` (float32, bfloat16 or float16)."""


class NeutralKernel:
    """Shared half of the kernels that read the neutral codes directly."""

    replaces_weight = False
    alignment = 1
    fast: FastLinear | None = None
    look_up: LookUp | None = None
    fuses = False

    def lay_out(self, operands: LinearOperands, spec: LinearSpec) -> tuple[torch.Tensor, ...]:
        """Nothing to do."""
        return ()

    def arguments(
        self, layout: tuple[torch.Tensor, ...], operands: LinearOperands | None, spec: LinearSpec
    ) -> tuple[torch.Tensor, ...]:
        """What `lay_out` gave."""
        return layout

    def unpack(self, layout: tuple[torch.Tensor, ...], spec: LinearSpec) -> torch.Tensor:
        """Never called: the weight was not replaced."""
        raise NotImplementedError


@lru_cache(maxsize=1024)
def spec_from_text(scheme: str, in_features: int, out_features: int) -> LinearSpec:
    """The spec that `scheme_text` wrote: ops take strings and integers only."""
    import json

    return LinearSpec(Scheme.from_dict(json.loads(scheme)), in_features, out_features)


@lru_cache(maxsize=1024)
def scheme_text(scheme: Scheme) -> str:
    """`scheme` as the string an op takes."""
    import json

    return json.dumps(scheme.to_dict(), sort_keys=True)
