"""A quantized weight: its codes and scales, and the layout that a kernel has made of them."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.formats import weight_facts
from hf_quant.formats.base import Matrix, TensorFacts
from hf_quant.kernels import ops
from hf_quant.kernels.base import LinearKernel, LinearOperands, LinearSpec
from hf_quant.kernels.dispatch import select_kernel
from hf_quant.modules.paging import page_out, stand_in, until_spawned
from hf_quant.modules.validation import check_weight

logger = logging.getLogger(__name__)

CODES = "codes"
"""The tensor that has the name of the parameter on disk; others append theirs to it."""

lock = threading.RLock()
"""Weights are laid out when they are first used, which several threads may do at once."""


class Reader(Protocol):
    """A module that makes something of a weight."""

    def forget(self) -> None:
        """Make it anew before it is used again: the weight has changed."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a kernel made of a weight, in place of the codes.

    Args:
        kernel: Whose layout it is.
        tensors: The laid out weight, one or more tensors of the kernel's `lay_out`.
        spec: What it was laid out for.
        stand_in: int32 of the shape of the codes and without memory, for ops that want codes.
    """

    kernel: LinearKernel
    tensors: tuple[torch.Tensor, ...]
    spec: LinearSpec
    stand_in: torch.Tensor


def stored_name(parameter: str, tensor: str) -> str:
    """Name on disk of one tensor of a quantized weight: ``weight``, ``weight_scale``, ``weight_zero_point``."""
    return parameter if tensor == CODES else f"{parameter}_{tensor}"


class Weight:
    """A matrix ``[rows, width]`` as the tensors of its format; tied modules hold the same object.

    Args:
        scheme: What the codes mean; the group size is settled.
        rows: Output channels, or rows of an embedding.
        width: Numbers in a row.
        tensors: Name to tensor (`formats.weight_facts`): ``codes``, which a layout may replace, scales and others.
    """

    def __init__(self, scheme: TensorScheme, rows: int, width: int, tensors: Mapping[str, torch.Tensor]):
        self.scheme, self.rows, self.width = scheme, rows, width
        self.matrix = Matrix(scheme, rows, width)
        self.facts: TensorFacts = weight_facts(scheme, rows, width)
        """Name, shape and dtype of its tensors, looked up here because Dynamo cannot trace a look-up by name."""
        self.name = "a quantized weight"
        """Name of the first parameter that holds it, for messages."""
        self.tensors = dict(tensors)
        """What is in memory: without the codes while `layout` stands for them."""
        self.layout: Layout | None = None
        self.products: tuple[LinearSpec, ...] = ()
        """The ways in which modules multiply with it."""
        self.is_table = False
        """Whether rows of it are looked up."""
        self.readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        """Modules that have made something of it, to be told when it changes."""
        self.is_visiting = False
        """Whether it is here for a call, so that laying it out is not worth the time."""
        self.read_by: str | None = None
        """The operation that first had it decoded, in code that does not know it; None where there was none."""
        self._codes: weakref.ref[torch.Tensor] | None = None
        self.face: weakref.ref[torch.Tensor] | None = None
        """The parameter of those who hold it (`modules.tensor.parameter_of`)."""

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        tensors = self.tensors.values() if self.layout is None else (*self.tensors.values(), *self.layout.tensors)
        return next(iter(tensors)).device

    @property
    def codes(self) -> torch.Tensor:
        """The neutral codes, int32 ``[rows, words]``; recovered from the layout that replaced them, if one did."""
        found = self.tensors.get(CODES)
        if found is None and self._codes is not None:
            found = self._codes()
        if found is None:
            assert self.layout is not None
            found = self.layout.kernel.unpack(self.layout.tensors, self.layout.spec)
            # The same tensor for as long as anybody holds it, so that what is tied is saved once.
            self._codes = weakref.ref(found)
        return found

    @property
    def memory(self) -> torch.Tensor:
        """The largest tensor that is in memory: the codes, or what took their place."""
        return self.tensors[CODES] if self.layout is None else self.layout.tensors[0]

    def neutral(self) -> dict[str, torch.Tensor]:
        """Its tensors as they go to disk, by the names of the format."""
        return {name: self.codes if name == CODES else self.tensors[name] for name in self.facts}

    def use(self, spec: LinearSpec, multiplies: bool) -> None:
        """Take note that a module multiplies with the weight as `spec` says, or looks up rows of it."""
        if multiplies and spec not in self.products:
            self.release()
            self.products = (*self.products, spec)
        elif not multiplies and not self.is_table:
            self.release()
            self.is_table = True

    def lay_out(self) -> None:
        """Let the kernel for the device at hand replace the codes by its own layout, if one layout serves all uses."""
        with lock:
            spec = self._only_use()
            if self.layout is not None or spec is None or self.is_visiting or self.device.type == "meta":
                return
            kernel = select_kernel(spec, self.device)
            if not kernel.replaces_weight or (self.is_table and kernel.look_up is None):
                return
            tensors = kernel.lay_out(self.operands(), spec)
            codes = self.tensors.pop(CODES)
            page_out(codes)
            self.layout = Layout(kernel, tensors, spec, stand_in(codes.shape, codes.device))
            self.tell()

    def release(self) -> None:
        """Undo `lay_out`: the codes are in memory again."""
        with lock:
            if self.layout is not None:
                self.tensors[CODES] = self.codes
                self.layout, self._codes = None, None
            self.tell()

    def move(self, layout: tuple[torch.Tensor, ...]) -> None:
        """Have the kernel's layout, the same numbers, in other memory."""
        with lock:
            assert self.layout is not None
            self.layout = replace(self.layout, tensors=layout)
            self.tell()

    def replace(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Stand for other numbers from now on, of the same scheme and shape, for all that hold it."""
        with lock:
            self.layout, self._codes = None, None
            self.tensors = dict(tensors)
            self.tell()

    def tell_read(self, reason: str) -> None:
        """Take note, and say once, that code which does not know the weight has it decoded in calls of `reason`."""
        if self.read_by is None and not torch.compiler.is_compiling():
            self.read_by = reason
            logger.info("%s is decoded for each call of %s, by code that reads it", self.name, reason)

    def tell(self) -> None:
        """Let every reader make anew what it has made of the weight."""
        for reader in list(self.readers):
            reader.forget()

    def ready(
        self, spec: LinearSpec, input_scale: torch.Tensor | None = None, input_zero_point: torch.Tensor | None = None
    ) -> tuple[LinearKernel, tuple[torch.Tensor, ...]]:
        """The kernel that multiplies with the weight as `spec` says, and what a call of it takes.

        Args:
            spec: One of `products`, or `plain_spec` where there is none.
            input_scale: Scale of static inputs, float32 ``[1]``; else None.
            input_zero_point: Zero point of static inputs, int8 or int16 ``[1]``; else None.
        """
        self.lay_out()
        layout = self.layout
        kernel = select_kernel(spec, self.device, neutral_only=True) if layout is None else layout.kernel
        self.align(kernel.alignment)
        operands = replace(self.operands(), input_scale=input_scale, input_zero_point=input_zero_point)
        tensors = kernel.lay_out(operands, spec) if layout is None else layout.tensors
        return kernel, kernel.arguments(tensors, operands, spec)

    def operands(self) -> LinearOperands:
        """The weight as kernels take it, without bias and grid of inputs."""
        codes = self.tensors[CODES] if self.layout is None else self.layout.stand_in
        return LinearOperands({name: codes if name == CODES else self.tensors[name] for name in self.facts})

    def dequantize(self) -> torch.Tensor:
        """The float32 matrix ``[rows, width]`` that the codes stand for, turned back where they are rotated."""
        layout = self.layout
        if layout is None:
            return ops.dequantize(self.operands(), self.plain_spec, None)
        return ops.dequantize(replace(self.operands(), packed=layout.tensors), layout.spec, layout.kernel.name)

    @property
    def plain_spec(self) -> LinearSpec:
        """Spec of a product with float inputs."""
        return LinearSpec(Scheme(self.scheme), self.width, self.rows)

    def align(self, bytes: int) -> None:
        """Copy the codes where their address is no multiple of `bytes`: those of a mapped file lie at any."""
        if CODES in self.tensors and self.tensors[CODES].data_ptr() % bytes:
            self.tensors[CODES] = self.tensors[CODES].clone()

    def like(self, tensors: Mapping[str, torch.Tensor], rows: int | None = None) -> Weight:
        """Another weight of the same scheme, width and uses, with as many rows unless `rows` says how many."""
        made = Weight(self.scheme, self.rows if rows is None else rows, self.width, tensors)
        made.name, made.products, made.is_table = self.name, self.products, self.is_table
        return made

    def apply(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """What ``nn.Module._apply`` does to a parameter: moved, shared, pinned, but never cast."""
        probe = fn(torch.empty(0, dtype=torch.float32, device=self.device))
        if probe.device != self.device:
            self.release()  # a layout is for one device

        def kept(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        before = [*self.tensors.values(), *(self.layout.tensors if self.layout is not None else ())]
        self.tensors = {name: kept(tensor) for name, tensor in self.tensors.items()}
        if self.layout is not None:
            self.layout = replace(self.layout, tensors=tuple(map(kept, self.layout.tensors)))
        after = [*self.tensors.values(), *(self.layout.tensors if self.layout is not None else ())]
        if any(old is not new for old, new in zip(before, after, strict=True)):
            self.tell()

    def _only_use(self) -> LinearSpec | None:
        if len(self.products) == 1:
            return self.products[0]
        return self.plain_spec if self.is_table and not self.products else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Weight:
        copied = self.like({name: tensor.clone() for name, tensor in self.neutral().items()})
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Codes, not a kernel's layout, which another machine may not have; and of plain types, as `torch.load` reads
        # with weights_only=True.
        tensors = self.neutral()
        until_spawned(tensors)
        products = [(spec.scheme.to_dict(), spec.in_features, spec.out_features) for spec in self.products]
        return rebuilt_weight, (
            self.scheme.to_dict(),
            self.rows,
            self.width,
            tensors,
            self.name,
            products,
            self.is_table,
        )


def rebuilt_weight(
    scheme: dict[str, Any],
    rows: int,
    width: int,
    tensors: dict[str, torch.Tensor],
    name: str,
    products: list[tuple[dict[str, Any], int, int]],
    is_table: bool,
) -> Weight:
    """Inverse of pickling a `Weight`.

    Raises:
        CheckpointError: The tensors are not what a quantizer writes.
    """
    made = Weight(TensorScheme.from_dict(scheme), rows, width, tensors)
    made.name, made.is_table = name, is_table
    made.products = tuple(LinearSpec(Scheme.from_dict(use), *sizes) for use, *sizes in products)
    if made.device.type != "meta":
        check_weight(tensors, made.matrix, name)
    return made
