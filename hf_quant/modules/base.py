"""What every quantized module shares: neutral codes, the kernel they are laid out for, and their way to disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_quant.config.scheme import Scheme
from hf_quant.errors import CheckpointError
from hf_quant.formats import affine_format
from hf_quant.formats.packing import padding_is_zero, unpack, words_per_row
from hf_quant.formats.rotation import hadamard, rotate
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.dispatch import get_kernel, select_kernel
from hf_quant.modules.paging import page_out

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

TensorFacts = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor name to shape and dtype."""


class QuantizedModule(nn.Module):
    """Mixin of modules whose ``weight`` is int32 words of packed codes ``[rows, words]``.

    ``weight_scale`` (float32) and ``weight_zero_point`` are buffers, so that nothing can make them trainable and no
    cast of the model changes them. A module tied to another one shares that module's weight and scale and saves
    neither.

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
    unchecked: str | None = None
    """Name to report, while the values are still to be checked."""

    def setup(self, scheme: Scheme, width: int, rows: int, tied: bool, device: torch.device | str | None) -> None:
        """Create the tensors, uninitialised; called by a subclass's constructor after ``nn.Module.__init__``."""
        self.spec = LinearSpec(scheme, width, rows)
        self.tied = tied
        self.kernel: str | None = None
        self.packed: tuple[torch.Tensor, ...] = ()
        self.rotation_matrix: torch.Tensor | None = None
        self.sharers: list[QuantizedModule] = []
        """Modules that share, or once shared, the weight of this one."""
        for name, (shape, dtype) in self._tensor_facts().items():
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
            name: facts for name, facts in self._tensor_facts().items() if not (self.tied and name.startswith("weight"))
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
        return get_kernel(str(self.kernel)).unpack(self.packed, self.spec) if self.is_replaced else self.weight

    def dequantized_weight(self) -> torch.Tensor:
        """The float32 weight ``[rows, width]`` that the codes stand for."""
        operands = replace(self.operands(), weight=self.neutral_weight().data, packed=())
        weight = get_kernel("reference").dequantize(operands, self.spec)
        size = self.spec.scheme.weight.rotation
        return weight if size is None else rotate(weight, hadamard(size, weight.device))

    def rotated(self, real: torch.Tensor) -> torch.Tensor:
        """`real`, ``[..., width]``, as the scheme rotates it: in float32, or as it is without a rotation."""
        size = self.spec.scheme.weight.rotation
        if size is None:
            return real
        if self.rotation_matrix is None or self.rotation_matrix.device != real.device:
            # Not a buffer: Transformers leaves those that are not in a checkpoint uninitialised.
            self.rotation_matrix = hadamard(size, real.device)
        return rotate(real, self.rotation_matrix)

    def prepack(self) -> None:
        """Choose the kernel for the device at hand and lay the weight out for it; a second call does nothing.

        A kernel with a layout of its own takes the place of the codes: `weight` keeps its shape and dtype but gives
        up its storage. Tied weights stay as they are, since another module reads them.
        """
        if self.kernel is not None or self.weight.is_meta:
            return
        self._choose_kernel(neutral_only=self.tied)
        kernel = get_kernel(str(self.kernel))
        if self.weight.data_ptr() % kernel.alignment:
            # Tensors of a mapped file lie at any address. Through `data`, so that tied modules see it too.
            self.weight.data = self.weight.data.clone()
        self.packed = kernel.prepack(self.operands(), self.spec)
        if self.spec.scheme.weight.rotation is not None:
            self.rotation_matrix = hadamard(self.spec.scheme.weight.rotation, self.weight.device)
        if kernel.replaces_weight:
            page_out(self.weight.data)
            stand_in = torch.zeros(1, dtype=torch.int32, device=self.weight.device).expand(self.weight.shape)
            self._parameters["weight"] = nn.Parameter(stand_in, requires_grad=False)

    def release_kernel(self) -> None:
        """Undo `prepack`: `weight` holds the neutral codes again."""
        if self.is_replaced:
            self._parameters["weight"] = nn.Parameter(self.neutral_weight(), requires_grad=False)
        self.kernel, self.packed = None, ()

    def share_weight(self, other: QuantizedModule) -> None:
        """Read the weight and scales of `other`, and save none."""
        self.tied = True
        self._non_persistent_buffers_set.update(name for name in self._tensor_facts() if name.startswith("weight_"))
        self.weight, self.weight_scale = other.weight, other.weight_scale
        self.weight_zero_point = other.weight_zero_point
        if self not in other.sharers:
            other.sharers.append(self)

    def same_values(self, other: QuantizedModule) -> bool:
        """Whether the weights of both stand for the same numbers, code by code."""
        return all(
            torch.equal(getattr(self, name), getattr(other, name))
            for name in self._tensor_facts()
            if name.startswith("weight")
        )

    def check_values(self, name: str) -> None:
        """Raise CheckpointError if a tensor holds what no quantizer writes: see the messages."""
        if self.weight.is_meta or self.weight_scale.is_meta:
            self.unchecked = name  # offloaded to disk: checked when it is first used
            return
        scale, zero_point, scheme = self.weight_scale, self.weight_zero_point, self.spec.scheme.weight
        format = affine_format(scheme)
        for key, (shape, dtype) in self._tensor_facts().items():
            tensor = getattr(self, key)
            if tensor.shape != shape or tensor.dtype != dtype:
                raise CheckpointError(
                    f"{name}.{key} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}: "
                    "download or save the checkpoint again"
                )
        self._check_input_values(name)
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise CheckpointError(f"{name}.weight_scale holds values that are not finite and positive: save it again")
        if zero_point is not None and not bool(
            ((zero_point >= format.quant_min) & (zero_point <= format.quant_max)).all()
        ):
            raise CheckpointError(f"{name}.weight_zero_point leaves the range of {scheme.bits} bits: save it again")
        if self.is_replaced:
            return  # made from codes that were checked before
        if not padding_is_zero(self.weight.data, scheme.bits, self.spec.in_features):
            raise CheckpointError(f"{name}.weight has bits set after its last code: save the checkpoint again")
        if format.quant_min > -(2 ** (scheme.bits - 1)):
            codes = unpack(self.weight.data, scheme.bits, self.spec.in_features)
            if codes.numel() and int(codes.min()) < format.quant_min:
                raise CheckpointError(
                    f"{name}.weight holds a code below {format.quant_min}, which symmetric {scheme.bits}-bit "
                    "quantization never writes: save the checkpoint again"
                )

    def check_deferred(self) -> None:
        """`check_values` on first use, for a module whose tensors were on disk when the model was loaded."""
        if self.unchecked is not None and not self.weight.is_meta:
            self.check_values(self.unchecked)
            self.unchecked = None

    def _check_input_values(self, name: str) -> None:
        scale, zero_point, scheme = self.input_scale, self.input_zero_point, self.spec.scheme.input
        if scheme is None or scale is None:
            return
        format = affine_format(scheme)
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise CheckpointError(f"{name}.input_scale is not finite and positive: calibrate and save it again")
        if zero_point is not None and not format.quant_min <= int(zero_point) <= format.quant_max:
            raise CheckpointError(f"{name}.input_zero_point leaves the range of {scheme.bits} bits: save it again")

    def _choose_kernel(self, neutral_only: bool) -> None:
        self.kernel = select_kernel(self.spec, self.weight.device, neutral_only=neutral_only).name

    def _tensor_facts(self) -> TensorFacts:
        scheme, spec = self.spec.scheme, self.spec
        facts: TensorFacts = {
            "weight": ((spec.out_features, words_per_row(spec.in_features, scheme.weight.bits)), torch.int32),
            "weight_scale": (spec.scale_shape, torch.float32),
        }
        if not scheme.weight.symmetric:
            facts["weight_zero_point"] = (spec.scale_shape, affine_format(scheme.weight).dtype)
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
        sharers = [module for module in self.sharers if module.tied]
        packed = [module for module in (self, *sharers) if module.kernel is not None]
        for module in packed:
            module.release_kernel()
        super()._load_from_state_dict(*args, **kwargs)
        for module in sharers:
            module.share_weight(self)
        for module in packed:
            module.prepack()

    def __getstate__(self) -> dict[str, Any]:
        # For copy.deepcopy and pickle: codes, not a kernel's layout, which another machine may not have.
        state = self.__dict__.copy()
        if self.is_replaced:
            state["_parameters"] = dict(state["_parameters"])
            state["_parameters"]["weight"] = nn.Parameter(self.neutral_weight(), requires_grad=False)
        state["kernel"], state["packed"] = None, ()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prepack()
