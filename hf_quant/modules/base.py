"""What every quantized module shares: the weight it holds, what a kernel takes of it, and its way to disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_quant.config.scheme import Scheme
from hf_quant.errors import UnsupportedModel
from hf_quant.formats import even_format, weight_facts
from hf_quant.formats.base import Matrix, TensorFacts
from hf_quant.kernels.base import FastLinear, LinearOperands, LinearSpec, LookUp
from hf_quant.kernels.dispatch import select_kernel
from hf_quant.modules.joined import Counterpart
from hf_quant.modules.state import take_state
from hf_quant.modules.tensor import QuantizedTensor, parameter_of
from hf_quant.modules.validation import check_grid, check_weight
from hf_quant.modules.weight import CODES, Weight, lock, stored_name

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

PARAMETER = "weight"
_PREPARED = ("held", "ready", "kernel", "packed", "read", "fast", "look_up", "fuses", "like")
"""Attributes that `prepare` sets, made of the weight as it is then."""


class QuantizedModule(Counterpart):
    """Mixin of modules whose ``weight`` is a `QuantizedTensor`, float to the outside.

    It begins *stored*: ``weight`` is a parameter of int32 codes, ``weight_scale`` and ``weight_zero_point`` are
    buffers, as they lie on disk, so that whatever reads checkpoints fills them. `assemble` makes a `Weight` of them.
    A module whose tensors visit from disk for each call stays stored.

    Args (of `setup`):
        scheme: Formats of weight and input, group size settled.
        width: Codes in a row.
        rows: Output channels, or rows of an embedding.
        tied: The weight belongs to another module, which saves it.
        device: Where the tensors are made; ``"meta"`` while a checkpoint is loaded.
        dtype: Dtype of the float module, which the parameter shows outward.
    """

    spec: LinearSpec
    names: tuple[str, ...]
    """Names of the tensors of the weight, in the order of its format."""
    weight: nn.Parameter
    input_scale: torch.Tensor | None
    input_zero_point: torch.Tensor | None
    multiplies: bool
    """Whether the weight is multiplied with, rather than looked up in."""
    unchecked: str | None = None
    """Name to report, while the values are still to be checked."""
    held: QuantizedTensor | None = None
    """The parameter that `packed` was made of; None until something is."""
    ready: bool = False
    """Whether `prepare` was called since."""
    kernel: str | None = None
    packed: tuple[torch.Tensor, ...] = ()
    """What `kernel` takes in a call."""
    read: tuple[torch.Tensor, ...] = ()
    """The tensors of the weight, as an op takes them."""
    fast: FastLinear | None = None
    look_up: LookUp | None = None
    fuses: bool = False
    """Whether the kernel can compute more than this module in one call."""
    like: torch.Tensor
    """An empty tensor of the dtype that the float module has."""

    def setup(
        self,
        scheme: Scheme,
        width: int,
        rows: int,
        tied: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Create the tensors, uninitialised; called by a subclass's constructor after ``nn.Module.__init__``."""
        self.spec = LinearSpec(scheme, width, rows)
        self.names = tuple(weight_facts(scheme.weight, rows, width))
        self.tied = tied
        self.float_dtype = dtype or torch.get_default_dtype()
        self.rescaled = False
        """Whether static scales of inputs were loaded since others may have taken note of them."""
        for name in ("input_scale", "input_zero_point"):
            self.register_buffer(name, None)
        for name, (shape, kind) in self.tensor_facts().items():
            tensor = torch.empty(shape, dtype=kind, device=device)
            if name == PARAMETER:
                self._parameters[name] = nn.Parameter(tensor, requires_grad=False)
            else:
                self.register_buffer(name, tensor, persistent=not (tied and name.startswith(PARAMETER)))

    @property
    def weights(self) -> dict[str, Weight]:
        """Quantized weights by the name of the parameter; empty while the tensors are as they lie on disk."""
        found = self._parameters[PARAMETER]
        return {PARAMETER: found.of} if isinstance(found, QuantizedTensor) else {}

    def hold(self, weight: Weight) -> None:
        """Compute with `weight` from now on, which other modules may hold as well."""
        for name in weight.facts:
            self._buffers.pop(stored_name(PARAMETER, name), None)
            self._non_persistent_buffers_set.discard(stored_name(PARAMETER, name))
        weight.use(self.spec, self.multiplies)
        self._parameters[PARAMETER] = parameter_of(weight, self.float_dtype)
        self.forget()

    def assemble(self) -> None:
        """Make a `Weight` of the tensors that were loaded."""
        if not self.weights:
            self.fill(self.stored_weight())

    def stored_weight(self) -> dict[str, torch.Tensor]:
        """The tensors of the weight by the names of its format, while they are as they lie on disk."""
        found = {name: getattr(self, stored_name(PARAMETER, name)) for name in self.names}
        return {**found, CODES: found[CODES].data}

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Hold a weight of these tensors, by the names of its format."""
        self.hold(Weight(self.spec.scheme.weight, *self._sizes(), tensors))

    def neutral(self) -> dict[str, torch.Tensor]:
        """The tensors of the weight by the names of its format, wherever they are."""
        weights = self.weights
        return weights[PARAMETER].neutral() if weights else self.stored_weight()

    def share(self, other: QuantizedModule) -> None:
        """Compute with the weight of `other`, and save none."""
        self.tied = True
        if not any(
            tensor.is_meta for tensor in (other._parameters[PARAMETER], *other._buffers.values()) if tensor is not None
        ):
            other.assemble()
        if other.weights:
            self.hold(other.weights[PARAMETER])
            return
        for name in self.names:
            stored = stored_name(PARAMETER, name)
            setattr(self, stored, getattr(other, stored))
            self._non_persistent_buffers_set.add(stored)

    def operands(self) -> LinearOperands:
        """The tensors as kernels take them."""
        weights = self.weights
        plain = weights[PARAMETER].operands() if weights else LinearOperands(self.stored_weight())
        return replace(
            plain,
            bias=getattr(self, "bias", None),
            input_scale=self.input_scale,
            input_zero_point=self.input_zero_point,
            packed=self.packed,
        )

    def dequantized_weight(self) -> torch.Tensor:
        """The float32 weight ``[rows, width]`` that the codes stand for."""
        weight = self.weights.get(PARAMETER) or Weight(self.spec.scheme.weight, *self._sizes(), self.stored_weight())
        return weight.dequantize()

    def prepare(self) -> None:
        """Choose the kernel for the device at hand and lay the weight out for it; a second call does nothing."""
        if self._parameters[PARAMETER].is_meta:  # type: ignore[union-attr]
            return
        with lock:
            self.assemble()
            face = self._parameters[PARAMETER]
            assert isinstance(face, QuantizedTensor)
            if self.held is face:
                return
            self.forget()
            weight = face.of
            weight.use(self.spec, self.multiplies)
            made: dict[str, Any] = {"held": face, "ready": True, "float_dtype": face.dtype}
            made["like"] = torch.empty(0, dtype=face.dtype, device=weight.device)
            if self.multiplies:
                kernel, made["packed"] = weight.ready(self.spec, self.input_scale, self.input_zero_point)
                made |= {"kernel": kernel.name, "fast": kernel.fast, "fuses": kernel.fuses}
            else:
                weight.lay_out()
                if (layout := weight.layout) is not None:  # otherwise rows are gathered from the codes
                    made["packed"] = layout.kernel.arguments(layout.tensors, None, layout.spec)
                    made |= {"kernel": layout.kernel.name, "look_up": layout.kernel.look_up}
                    made["fuses"] = layout.kernel.fuses
            made["read"] = tuple(weight.operands().weight.values())
            weight.readers.add(self)
            self.__dict__.update(made)

    def forget(self) -> None:
        """Undo `prepare`: what was made of the weight is of no use any more."""
        for name in _PREPARED:
            self.__dict__.pop(name, None)  # what the class says holds again

    @property
    def is_offloaded(self) -> bool:
        """Whether accelerate brings the tensors for each call."""
        hook = getattr(self, "_hf_hook", None)
        return any(getattr(each, "offload", False) for each in (hook, *getattr(hook, "hooks", ())))

    @property
    def is_current(self) -> bool:
        """Whether what `prepare` made is of the parameter that there is now."""
        return self.held is self._parameters[PARAMETER] and self.held is not None

    def check_values(self, name: str) -> None:
        """Raise CheckpointError if a tensor holds what no quantizer writes."""
        for parameter, weight in self.weights.items():
            weight.name = f"{name}.{parameter}"
            if weight.layout is None:  # otherwise made from codes that were checked before
                check_weight(weight.neutral(), weight.matrix, f"{name}.{parameter}")
        if not self.weights:
            stored = self.stored_weight()
            if any(tensor.is_meta for tensor in stored.values()):
                self.unchecked = name  # offloaded to disk: checked when it is first used
                return
            check_weight(stored, Matrix(self.spec.scheme.weight, *self._sizes()), f"{name}.{PARAMETER}")
        grid = {key: tensor for key, tensor in self._buffers.items() if key.startswith("input") and tensor is not None}
        if grid and self.spec.scheme.input is not None:
            check_grid(grid, self.tensor_facts(), self.spec.scheme.input, name)

    def tensor_facts(self) -> TensorFacts:
        """Name, shape and dtype of every quantized tensor as it lies on disk, those of a shared weight included."""
        scheme = self.spec.scheme
        facts = {
            stored_name(PARAMETER, name): found for name, found in weight_facts(scheme.weight, *self._sizes()).items()
        }
        if scheme.input is not None and not scheme.input.dynamic:
            facts["input_scale"] = ((1,), torch.float32)
            if not scheme.input.symmetric:
                facts["input_zero_point"] = ((1,), even_format(scheme.input).dtype)
        return facts

    def saved_tensors(self) -> TensorFacts:
        """Name, shape and dtype of every quantized tensor this module writes to a checkpoint."""
        shared = self.tied
        return {
            name: found for name, found in self.tensor_facts().items() if not (shared and name.startswith(PARAMETER))
        }

    def _sizes(self) -> tuple[int, int]:
        return self.spec.out_features, self.spec.in_features

    def _visiting(self) -> torch.Tensor | None:
        """A parameter that is here for a call: codes that come from disk, or floats; None where it is to stay."""
        found = self._parameters[PARAMETER]
        assert found is not None
        is_here = isinstance(found, QuantizedTensor) or not (found.is_floating_point() or self.is_offloaded)
        return None if is_here else found

    def _visiting_operands(self) -> LinearOperands:
        if self.unchecked is not None and not self._parameters[PARAMETER].is_meta:  # type: ignore[union-attr]
            self.check_values(self.unchecked)
            self.unchecked = None
        return self.operands()

    def call_around(self, *args: Any, **kwargs: Any) -> Any:
        """What the forward of the derived class gives, which finds a float weight wherever the codes are."""
        if torch.compiler.is_compiling() or self.is_current:
            return super().call_around(*args, **kwargs)
        visiting = self._visiting()
        if visiting is None or visiting.is_floating_point():
            return super().call_around(*args, **kwargs)
        weight = Weight(self.spec.scheme.weight, *self._sizes(), self._visiting_operands().weight)
        weight.is_visiting = True
        self._parameters[PARAMETER] = parameter_of(weight, self.float_dtype)
        try:
            return super().call_around(*args, **kwargs)
        finally:
            self._parameters[PARAMETER] = visiting  # type: ignore[assignment]
            self.forget()

    def _neutral_kernel(self, device: torch.device) -> str:
        return select_kernel(self.spec, device, neutral_only=True).name

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Casting a model must not cast scales, and a weight is moved once, by the first of those who hold it.
        face = self._parameters[PARAMETER]
        own = self.tensor_facts()
        kept = {id(tensor) for name, tensor in self._buffers.items() if name in own}

        def keep_own(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if id(tensor) in kept and moved.dtype != tensor.dtype else moved

        probe = fn(torch.empty(0, dtype=self.float_dtype, device=face.device))  # type: ignore[union-attr]
        self.float_dtype = probe.dtype
        was_ready = self.is_current
        if not isinstance(face, QuantizedTensor):
            super()._apply(keep_own, recurse)
            return self
        self._parameters[PARAMETER] = None
        try:
            super()._apply(keep_own, recurse)
            face.of.apply(fn)
        finally:
            self._parameters[PARAMETER] = parameter_of(face.of, self.float_dtype)
        self.forget()
        if was_ready:
            self.prepare()
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        full = prefix + PARAMETER
        given = state_dict.get(full)
        if isinstance(given, QuantizedTensor) and not self.weights and given.of.scheme == self.spec.scheme.weight:
            self.hold(given.of.like(given.of.neutral()))
        weight = self.weights.get(PARAMETER)
        is_taken = weight is not None and given is not None and not isinstance(given, QuantizedTensor)
        if is_taken and weight is not None:
            state_dict = take_state(weight, full, state_dict, missing_keys, error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        is_owned_elsewhere = self.tied and weight is not None and given is None  # and missed there if it is missing
        if (is_taken or is_owned_elsewhere) and full in missing_keys:
            missing_keys.remove(full)
        self.rescaled = self.input_scale is not None
        if weight is not None:
            self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _PREPARED}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == PARAMETER and isinstance(value, QuantizedTensor):
            if tuple(value.shape) != self._sizes():
                raise UnsupportedModel(f"a weight of {list(value.shape)} does not fit {list(self._sizes())}")
            value = parameter_of(value.of, value.dtype)  # one parameter for all who hold the weight
        super().__setattr__(name, value)

    @property
    def __jit_ignored_attributes__(self) -> list[str]:
        # Read by torch.jit before it copies parameters to C++, which cannot hold these.
        raise UnsupportedModel(
            "torch.jit cannot trace or script a quantized module: use torch.export.export or torch.compile, or call "
            "model.dequantize() first"
        )
