"""What every quantized module shares: neutral codes, the kernel they are laid out for, and their way to disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_quant.config.scheme import Scheme
from hf_quant.formats import affine_format
from hf_quant.formats.packing import words_per_row
from hf_quant.formats.zero_points import zero_point_words
from hf_quant.kernels import ops
from hf_quant.kernels.base import FastLinear, LinearKernel, LinearOperands, LinearSpec, LookUp
from hf_quant.kernels.dispatch import get_kernel, select_kernel
from hf_quant.modules.paging import page_out, stand_in
from hf_quant.modules.shared import SharedWeight
from hf_quant.modules.validation import check_values

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

TensorFacts = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor name to shape and dtype."""


_prepacking = threading.RLock()
"""Copies are laid out when they are first used, which several threads may do at once."""


class QuantizedModule(nn.Module):
    """Mixin of modules whose ``weight`` is int32 words of packed codes ``[rows, words]``.

    ``weight_scale`` (float32, or bfloat16 in groups) and ``weight_zero_point`` are buffers, so that nothing can make
    them trainable and no cast of the model changes them. A module tied to another one shares that module's weight and
    scale and saves neither.

    Args (of `setup`):
        scheme: Formats of weight and input, group size settled.
        width: Codes in a row.
        rows: Output channels, or rows of an embedding.
        tied: The weight and scale belong to another module.
        device: Where the tensors are made; ``"meta"`` while a checkpoint is loaded.
    """

    spec: LinearSpec
    weight: nn.Parameter
    weight_scale: torch.Tensor
    weight_zero_point: torch.Tensor | None
    input_scale: torch.Tensor | None
    input_zero_point: torch.Tensor | None
    multiplies: bool
    """Whether the weight is multiplied with, rather than looked up in."""
    unchecked: str | None = None
    """Name to report, while the values are still to be checked."""

    def setup(self, scheme: Scheme, width: int, rows: int, tied: bool, device: torch.device | str | None) -> None:
        """Create the tensors, uninitialised; called by a subclass's constructor after ``nn.Module.__init__``."""
        self.spec = LinearSpec(scheme, width, rows)
        self.tied = tied
        self.kernel: str | None = None
        self.packed: tuple[torch.Tensor, ...] = ()
        self.fast: FastLinear | None = None
        self.look_up: LookUp | None = None
        self.shared: SharedWeight | None = None
        """Set where others read the weight too, or where it is another's."""
        self.repack = False
        """Whether to `prepack` at first use, as a copy does."""
        self.rescaled = False
        """Whether static scales of inputs were loaded since others may have taken note of them."""
        for name, (shape, dtype) in self.tensor_facts().items():
            tensor = torch.empty(shape, dtype=dtype, device=device)
            if name == "weight":
                self.weight = nn.Parameter(tensor, requires_grad=False)
            else:
                self.register_buffer(name, tensor, persistent=not (tied and name.startswith("weight")))
        for name in ("weight_zero_point", "input_scale", "input_zero_point"):
            if name not in self._buffers:
                self.register_buffer(name, None)

    def saved_tensors(self) -> TensorFacts:
        """Name, shape and dtype of every quantized tensor this module writes to a checkpoint."""
        return {
            name: facts for name, facts in self.tensor_facts().items() if not (self.tied and name.startswith("weight"))
        }

    def operands(self) -> LinearOperands:
        """The tensors as kernels take them."""
        return LinearOperands(
            self.weight,
            self.weight_scale,
            self.weight_zero_point,
            getattr(self, "bias", None),
            self.input_scale,
            self.input_zero_point,
            self.packed,
        )

    @property
    def is_replaced(self) -> bool:
        """Whether a kernel's layout has taken the place of the neutral codes."""
        return bool(self.packed) and get_kernel(str(self.kernel)).replaces_weight

    def neutral_weight(self) -> torch.Tensor:
        """The packed codes ``[rows, words]`` int32, recovered from the kernel's layout if that replaced them."""
        if not self.is_replaced:
            return self.weight
        if self.shared is not None:
            return self.shared.neutral()
        return get_kernel(str(self.kernel)).unpack(self.packed, self.spec)

    def dequantized_weight(self) -> torch.Tensor:
        """The float32 weight ``[rows, width]`` that the codes stand for."""
        operands = replace(self.operands(), weight=self.neutral_weight().data, packed=())
        return ops.dequantize(operands, self.spec, None)

    def prepack(self) -> None:
        """Choose the kernel for the device at hand and lay the weight out for it; a second call does nothing.

        A kernel with a layout of its own takes the place of the codes: `weight` keeps its shape and dtype but gives
        up its storage. A weight that several modules read is laid out once, if one layout serves them all; otherwise
        its codes stay as they are.
        """
        with _prepacking:
            self._prepack()

    def _prepack(self) -> None:
        if self.kernel is not None or self.weight.is_meta or (self.shared is not None and self.shared.prepack()):
            return
        if not self.multiplies and (self.shared is not None or self._chosen(neutral_only=False).look_up is None):
            self.repack = False
            return  # rows are gathered from the codes
        kernel = self._chosen(neutral_only=self.shared is not None)
        if self.weight.data_ptr() % kernel.alignment:
            # Tensors of a mapped file lie at any address. Through `data`, so that tied modules see it too.
            self.weight.data = self.weight.data.clone()
        packed = kernel.prepack(self.operands(), self.spec)
        weight = self.weight
        if kernel.replaces_weight:
            page_out(self.weight.data)
            weight = stand_in(self.weight)
        self.adopt(kernel, packed, weight)

    def release_kernel(self) -> None:
        """Undo `prepack`: `weight` holds the neutral codes again."""
        if self.is_replaced and self.shared is not None:
            self.shared.release()
        elif self.is_replaced:
            self.abandon(nn.Parameter(self.neutral_weight(), requires_grad=False))
        else:
            self.abandon(self.weight)

    def adopt(self, kernel: LinearKernel, packed: tuple[torch.Tensor, ...], weight: nn.Parameter) -> None:
        """Compute with what `kernel` made of the weight from now on, with `weight` in its place."""
        self.kernel, self.packed, self.repack = kernel.name, packed, False
        self.fast, self.look_up = kernel.fast, kernel.look_up
        self._parameters["weight"] = weight

    def abandon(self, weight: nn.Parameter) -> None:
        """Undo `adopt`: `weight` holds the neutral codes."""
        self.kernel, self.packed, self.fast, self.look_up = None, (), None, None
        self._parameters["weight"] = weight

    def share_weight(self, other: QuantizedModule) -> None:
        """Read the weight and scales of `other`, and save none."""
        self.tied = True
        self._non_persistent_buffers_set.update(name for name in self.tensor_facts() if name.startswith("weight_"))
        self.weight, self.weight_scale = other.weight, other.weight_scale
        self.weight_zero_point = other.weight_zero_point
        if other.shared is None:
            other.shared = SharedWeight(other)
        self.shared = other.shared
        if not any(reader is self for reader in self.shared.readers):
            self.shared.readers.append(self)

    def same_values(self, other: QuantizedModule) -> bool:
        """Whether the weights of both stand for the same numbers, code by code."""
        return all(
            torch.equal(getattr(self, name), getattr(other, name))
            for name in self.tensor_facts()
            if name.startswith("weight")
        )

    def check_values(self, name: str) -> None:
        """Raise CheckpointError if a tensor holds what no quantizer writes."""
        if self.weight.is_meta or self.weight_scale.is_meta:
            self.unchecked = name  # offloaded to disk: checked when it is first used
            return
        check_values(self, name)

    def check_deferred(self) -> None:
        """`check_values` on first use, for a module whose tensors were on disk when the model was loaded."""
        if self.unchecked is not None and not self.weight.is_meta:
            self.check_values(self.unchecked)
            self.unchecked = None

    def _chosen(self, neutral_only: bool) -> LinearKernel:
        return select_kernel(self.spec, self.weight.device, neutral_only=neutral_only)

    def tensor_facts(self) -> TensorFacts:
        """Name, shape and dtype of every quantized tensor, those of a shared weight included."""
        scheme, spec = self.spec.scheme, self.spec
        facts: TensorFacts = {
            "weight": ((spec.out_features, words_per_row(spec.in_features, scheme.weight.bits)), torch.int32),
            "weight_scale": (spec.scale_shape, spec.scale_dtype),
        }
        if not scheme.weight.symmetric:
            words = zero_point_words(spec.scale_shape, scheme.weight.bits)
            facts["weight_zero_point"] = ((words,), torch.int32)
        if scheme.input is not None and not scheme.input.dynamic:
            facts["input_scale"] = ((1,), torch.float32)
            if not scheme.input.symmetric:
                facts["input_zero_point"] = ((1,), affine_format(scheme.input).dtype)
        return facts

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Casting a model must not cast scales, and a kernel's layout is for one device only.
        was_packed = self.kernel is not None
        self.release_kernel()
        scales = {id(tensor) for tensor in (self.weight_scale, self.input_scale) if tensor is not None}

        def keep_scales(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if id(tensor) in scales and moved.dtype != tensor.dtype else moved

        super()._apply(keep_scales, recurse)
        if was_packed:
            self.prepack()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_replaced:
            destination[prefix + "weight"] = self.neutral_weight()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # What is loaded is new to the modules that share it too, and to what their kernels made of it.
        shared = self.shared if self.shared is not None and self.shared.owner is self else None
        members = [self] if shared is None else shared.members
        packed = [module for module in members if module.kernel is not None]
        for module in packed:
            module.release_kernel()
        super()._load_from_state_dict(*args, **kwargs)
        self.rescaled = self.input_scale is not None
        for module in members[1:]:
            module.share_weight(self)
        for module in packed:
            module.prepack()

    def __getstate__(self) -> dict[str, Any]:
        # For copy.deepcopy and pickle: codes, not a kernel's layout, which another machine may not have.
        state = self.__dict__.copy()
        if self.is_replaced:
            weight = self.neutral_weight()
            if not isinstance(weight, nn.Parameter):
                weight = nn.Parameter(weight, requires_grad=False)
            state["_parameters"] = {**state["_parameters"], "weight": weight}
        # A copy is laid out when it is first used: those it shares a weight with may not be complete before.
        state["repack"] = True
        state["kernel"], state["packed"], state["fast"], state["look_up"] = None, (), None, None
        return state
