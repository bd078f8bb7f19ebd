"""What ``module.weight`` is: a quantized weight that looks like a float tensor to code that does not know it."""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from hf_quant.config.scheme import Scheme
from hf_quant.errors import QuantizedWeightError
from hf_quant.kernels.dispatch import get_kernel
from hf_quant.modules import sharding
from hf_quant.modules.products import looked_up, multiplied
from hf_quant.modules.read_only import as_view
from hf_quant.modules.weight import Layout, Weight

aten = torch.ops.aten
_functions = torch.nn.functional
_Tensor = torch.Tensor

FIX = "dequantize() the model, or keep the module float with modules_to_not_convert"

_TRACERS = ("torch._subclasses", "torch._functorch", "torch._dynamo", "torch._inductor", "torch.fx", "torch.export")
_MOVERS = ("torch", "accelerate", "transformers", "hf_quant", "peft")
_LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")
_SHAPE_ONLY = (*_LIKE, "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")


class QuantizedTensor(_Tensor):
    """A float tensor ``[rows, width]`` to the outside; codes and scales within.

    Products and look-ups run on kernels, everything else on the decoded numbers, which live for that call only. It has
    no gradient, and a write that would change it raises QuantizedWeightError.

    Args:
        value: The weight, or another tensor of this kind. Of a float tensor a plain parameter is made, as those want
            that call ``type(parameter)(value)``.
        dtype: What it looks like; that of `value` if this is a tensor.
        turned: Whether it is the transpose, ``[width, rows]``.
    """

    of: Weight
    turned: bool

    @staticmethod
    def __new__(
        cls,
        value: Weight | torch.Tensor,
        dtype: torch.dtype | None = None,
        turned: bool = False,
        requires_grad: bool = False,
        **_: Any,
    ) -> Any:
        """See the class."""
        if requires_grad:
            raise QuantizedWeightError(f"{_name(value)} cannot be trained: {FIX}")
        if isinstance(value, QuantizedTensor):
            again = QuantizedTensor(value.of, dtype or value.dtype, value.turned)
            again._is_param = True
            return again
        if isinstance(value, _Tensor):
            return nn.Parameter(value, requires_grad=False)
        shape = (value.width, value.rows) if turned else (value.rows, value.width)
        made: Any = _Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=value.device, requires_grad=False)
        made.of, made.turned = value, turned
        # Else Transformers draws random numbers for it.
        made._is_hf_initialized = True
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Made by ``__new__``."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype}, {self.device}, {Scheme(self.of.scheme)})"

    def decoded(self, reason: str) -> torch.Tensor:
        """The numbers as a plain tensor; says once for each weight that `reason` asked for them."""
        self.of.tell_read(reason)
        real = self.of.dequantize().to(self.dtype)
        return real.t() if self.turned else real

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Products and look-ups; what is no operation on numbers; refusals of what would be lost."""
        kwargs = kwargs or {}
        special = _FUNCTIONS.get(func)
        if special is not None and (found := special(*args, **kwargs)) is not NotImplemented:
            return found
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Copies and moves as they are; shapes without numbers; everything else on decoded numbers."""
        kwargs = kwargs or {}
        special = _OPS.get(func)
        if special is not None and (found := special(*args, **kwargs)) is not NotImplemented:
            return found
        name = func._schema.name.partition("::")[2]
        if name in _SHAPE_ONLY:
            return func(*tree_map(_shape_of, args), **kwargs)
        if func._schema.is_mutable:
            return _write(func, name, args, kwargs)

        def plain(value: Any) -> Any:
            return value.decoded(name) if isinstance(value, QuantizedTensor) else value

        result = func(*tree_map(plain, args), **tree_map(plain, kwargs))
        gives_views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        return as_view(result, _name(args[0])) if gives_views else result

    def fsdp_pre_all_gather(self, mesh: Any) -> tuple[tuple[torch.Tensor, ...], Any]:
        """What FSDP2 gathers of the rows that this process keeps."""
        return sharding.to_gather(self.of)

    def fsdp_post_all_gather(
        self, outputs: tuple[torch.Tensor, ...], names: Any, dtype: torch.dtype, *, out: Any = None
    ) -> Any:
        """The whole tensor of what was gathered, and what of its memory is freed after the call."""
        if len(outputs) < len(names):  # a single process, whose part FSDP2 does not gather
            outputs, names = sharding.to_gather(self.of)
        whole = sharding.gathered(self.of, outputs, names)
        if out is not None:
            out.of.replace(whole.tensors)
            return None
        return QuantizedTensor(whole, dtype), outputs

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        """Its tensors by name, and the rest, for ``torch.compile`` and ``torch.export``."""
        weight = self.of
        layout = weight.layout
        inner = {**weight.tensors, **{f"layout_{i}": t for i, t in enumerate(layout.tensors if layout else ())}}
        names = [f"_{name}" for name in inner]
        self.__dict__.update(zip(names, inner.values(), strict=True))
        facts = (weight.scheme, weight.rows, weight.width, weight.products, weight.is_table)
        return names, (facts, None if layout is None else (layout.kernel.name, layout.spec), self.dtype, self.turned)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Any], meta: Any, outer_size: Any, outer_stride: Any) -> QuantizedTensor:
        """Inverse of `__tensor_flatten__`."""
        (scheme, rows, width, products, is_table), layout, dtype, turned = meta
        tensors = {name[1:]: tensor for name, tensor in inner.items()}
        laid_out = [tensors.pop(name) for name in sorted(tensors) if name.startswith("layout_")]
        weight = Weight(scheme, rows, width, tensors)
        weight.products, weight.is_table = products, is_table
        if layout is not None:
            codes = laid_out[0].new_empty(1, dtype=torch.int32).expand(weight.facts["codes"][0])
            weight.layout = Layout(get_kernel(layout[0]), tuple(laid_out), layout[1], codes)
        made: QuantizedTensor = QuantizedTensor(weight, dtype, turned)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The same parameter again for all who share it: pickle and deepcopy keep one of each.
        return rebuilt_tensor, (self.of, self.dtype, self.turned, getattr(self, "_is_param", False))

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedTensor:
        if id(self) not in memo:
            is_parameter = getattr(self, "_is_param", False)
            memo[id(self)] = rebuilt_tensor(copy.deepcopy(self.of, memo), self.dtype, self.turned, is_parameter)
        found: QuantizedTensor = memo[id(self)]
        return found


def parameter_of(weight: Weight, dtype: torch.dtype) -> Any:
    """The parameter of a dtype that all who hold `weight` have in common: the same one as long as anybody has it."""
    found = weight.face() if weight.face is not None else None
    if found is None or found.dtype != dtype or found.device != weight.device:
        found = QuantizedTensor(weight, dtype)
        found._is_param = True
        weight.face = weakref.ref(found)
    return found


def rebuilt_tensor(of: Weight, dtype: torch.dtype, turned: bool, is_parameter: bool) -> QuantizedTensor:
    """Inverse of pickling a `QuantizedTensor`."""
    if is_parameter and not turned:
        return parameter_of(of, dtype)
    made: QuantizedTensor = QuantizedTensor(of, dtype, turned)
    return made


def _name(value: Any) -> str:
    found = value.of if isinstance(value, QuantizedTensor) else value
    return getattr(found, "name", "a quantized weight")


def _shape_of(value: Any) -> Any:
    if not isinstance(value, QuantizedTensor):
        return value
    return torch.empty(1, dtype=value.dtype, device=value.device).expand(value.shape)


def _refused(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(tensor, QuantizedTensor):
        return NotImplemented
    raise QuantizedWeightError(f"{_name(tensor)} is quantized and cannot be written to: {FIX}")


def _write(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Let a write pass that changes nothing, such as an average with itself; refuse every other.

    Others cannot be kept: what is written is rarely on the grid, and rounding it would be a change in silence.
    """
    written: list[tuple[QuantizedTensor, torch.Tensor]] = []

    def plain(value: Any) -> Any:
        return value.decoded(name) if isinstance(value, QuantizedTensor) else value

    given = list(tree_map(plain, args))
    keywords = tree_map(plain, kwargs)
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        before = args[index] if index < len(args) else kwargs.get(argument.name)
        after = given[index] if index < len(args) else keywords.get(argument.name)
        for old, new in zip(*((v if isinstance(v, list | tuple) else [v]) for v in (before, after)), strict=True):
            if isinstance(old, QuantizedTensor):
                written.append((old, new))
    result = func(*given, **keywords)
    for old, new in written:
        if not torch.equal(new, old.decoded(name)):
            _refused(old)
    return None if result is None else args[0]


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    is_plain = not isinstance(input, QuantizedTensor) and not isinstance(bias, QuantizedTensor)
    _refuse_gradient(weight)
    if not isinstance(weight, QuantizedTensor) or weight.turned or not is_plain:
        return NotImplemented
    return multiplied(weight.of, input, bias)


def _matmul(input: Any, weight: Any = None, **kwargs: Any) -> Any:
    """``input @ weight.T``, and ``weight @ columns``, which Mamba's steps are computed by."""
    _refuse_gradient(weight)
    if kwargs or weight is None or isinstance(input, QuantizedTensor) is isinstance(weight, QuantizedTensor):
        return NotImplemented
    if isinstance(weight, QuantizedTensor):
        return multiplied(weight.of, input, None) if weight.turned else NotImplemented
    _refuse_gradient(input)
    if input.turned or weight.ndim < 2:
        return NotImplemented
    return multiplied(input.of, weight.transpose(-1, -2), None).transpose(-1, -2).contiguous()


def _addmm(bias: Any, input: Any, weight: Any, *, beta: float = 1, alpha: float = 1, **kwargs: Any) -> Any:
    is_plain = not isinstance(bias, QuantizedTensor) and bias.ndim == 1 and beta == alpha == 1
    if not is_plain or isinstance(input, QuantizedTensor):
        return NotImplemented
    found = _matmul(input, weight, **kwargs)
    return found if found is NotImplemented else found + bias


def _embedding(
    input: Any, weight: Any, padding_idx: Any = None, max_norm: Any = None, *args: Any, **kwargs: Any
) -> Any:
    _refuse_gradient(weight)
    if not isinstance(weight, QuantizedTensor) or weight.turned or max_norm is not None:
        return NotImplemented
    return looked_up(weight.of, input, weight.dtype)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    # Rows that do not lie one after the other are multiplied with copies of the weight, which would be decoded.
    rows = {id(each): each.contiguous() for each in (query, key, value)}
    with torch._C.DisableTorchFunctionSubclass():
        inputs = (rows[id(each)] for each in (query, key, value))
        return _functions.multi_head_attention_forward(*inputs, *args, **kwargs)


def _requires_grad(tensor: Any, value: bool = True) -> Any:
    return _refused_training(tensor) if value and isinstance(tensor, QuantizedTensor) else NotImplemented


def _refused_training(tensor: QuantizedTensor) -> Any:
    raise QuantizedWeightError(f"{_name(tensor)} is quantized and cannot be trained: {FIX}")


def _refuse_gradient(weight: Any) -> None:
    # Of what was added to it in place: a sum of zeros, say, which changes nothing yet.
    if isinstance(weight, QuantizedTensor) and weight.requires_grad:
        _refused_training(weight)


def _set_data(tensor: Any, value: Any) -> Any:
    if not isinstance(tensor, QuantizedTensor):
        return NotImplemented
    if not isinstance(value, QuantizedTensor) or value.shape != tensor.shape or value.of.scheme != tensor.of.scheme:
        return _refused(tensor)
    tensor.of.replace(value.of.neutral())
    return None


def _in_memory(tensor: QuantizedTensor) -> torch.Tensor | None:
    """What stands for a tensor where its address is asked for; None where it has none.

    Libraries that load and move models ask to tell tensors apart. Whoever else asks may read what is there, as writers
    of files do: they get the decoded numbers, which live as long as the tensor.
    """
    asks = sys._getframe(3).f_globals.get("__name__", "")
    if asks.startswith(_TRACERS):
        return None
    if asks.startswith(_MOVERS):
        return tensor.of.memory
    if "real" not in tensor.__dict__:
        tensor.__dict__["real"] = tensor.decoded(asks).contiguous()
    real: torch.Tensor = tensor.__dict__["real"]
    return real


def _storage(tensor: QuantizedTensor) -> Any:
    found = _in_memory(tensor)
    return NotImplemented if found is None else found.untyped_storage()


def _address(tensor: QuantizedTensor) -> Any:
    found = _in_memory(tensor)
    return NotImplemented if found is None else found.data_ptr()


def _index_copy(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(tensor, QuantizedTensor) or not any(spec.scheme.input for spec in tensor.of.products):
        return NotImplemented
    # As PEFT does to train single tokens: a product with the copy would not round its inputs as the module does.
    raise QuantizedWeightError(
        f"rows of {_name(tensor)} cannot be exchanged, since a head with quantized inputs reads them: keep embedding "
        "and head float with modules_to_not_convert"
    )


def _shards() -> bool:
    """Whether FSDP2 asks, which cuts and fills parameters by ordinary functions."""
    return str(sys._getframe(3).f_globals.get("__name__", "")).startswith("torch.distributed.fsdp")


def _chunk(tensor: Any, chunks: int, dim: int = 0) -> Any:
    if not isinstance(tensor, QuantizedTensor) or not _shards() or tensor.turned or dim:
        return NotImplemented
    parts = sharding.parts_of(tensor.of, chunks)
    return NotImplemented if parts is None else [QuantizedTensor(part, tensor.dtype) for part in parts]


def _new_zeros(tensor: Any, *size: Any, **kwargs: Any) -> Any:
    shape = size[0] if len(size) == 1 else size
    if not _shards() or kwargs or tensor.turned or len(shape) != 2 or tensor.shape[0] % shape[0]:
        return NotImplemented
    return QuantizedTensor(sharding.empty_part(tensor.of, shape[0]), tensor.dtype)


def _flat(tensor: Any, *shape: Any) -> Any:
    return tensor.of.tensors["codes"].view(-1) if shape == (-1,) and _shards() else NotImplemented


def _narrow(tensor: Any, dim: int, start: Any, length: int) -> Any:
    is_whole = isinstance(start, int) and start == 0 and length == tensor.shape[dim]
    return _same(tensor) if is_whole else NotImplemented


def _shared(tensor: QuantizedTensor) -> QuantizedTensor:
    tensor.of.apply(_Tensor.share_memory_)
    return tensor


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    _functions.linear: _linear,
    _functions.embedding: _embedding,
    _functions.multi_head_attention_forward: _attention,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    _Tensor.matmul: _matmul,
    _Tensor.mm: _matmul,
    _Tensor.__matmul__: _matmul,
    _Tensor.requires_grad_: _requires_grad,
    _Tensor.requires_grad.__set__: _requires_grad,  # type: ignore[attr-defined]
    _Tensor.__setitem__: _refused,
    _Tensor.data.__get__: lambda tensor: QuantizedTensor(tensor.of, tensor.dtype, tensor.turned),  # type: ignore[attr-defined]
    _Tensor.detach: lambda tensor: _same(tensor),  # autograd refuses that in inference mode
    _Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    _Tensor.share_memory_: _shared,
    _Tensor.is_shared: lambda tensor: all(each.is_shared() for each in tensor.of.tensors.values()),
    # Addresses tell tensors apart, and storages are counted.
    _Tensor.data_ptr: _address,
    _Tensor.untyped_storage: _storage,
    _Tensor.index_copy: _index_copy,
    torch.chunk: _chunk,
    _Tensor.new_zeros: _new_zeros,
    _Tensor.view: _flat,
    _Tensor.narrow: _narrow,
    _Tensor.numpy: lambda tensor, *args, **kwargs: tensor.decoded("numpy").numpy(*args, **kwargs),
    _Tensor.tolist: lambda tensor: tensor.decoded("tolist").tolist(),
}
"""What is done to the tensor before autograd sees it."""


def _same(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    return QuantizedTensor(tensor.of, tensor.dtype, tensor.turned)


def _clone(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    copied = {name: value.clone() for name, value in tensor.of.neutral().items()}
    return QuantizedTensor(tensor.of.like(copied), tensor.dtype, tensor.turned)


def _to_copy(tensor: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
    dtype = dtype or tensor.dtype
    if not dtype.is_floating_point or kwargs.get("layout") not in (None, torch.strided):
        return NotImplemented
    weight: Weight = tensor.of
    if device is not None and torch.device(device) != weight.device:
        weight = weight.like({name: value.to(device) for name, value in weight.neutral().items()})
    return QuantizedTensor(weight, dtype, tensor.turned)


def _view(tensor: Any, shape: Any) -> Any:
    return _same(tensor) if tuple(shape) == tuple(tensor.shape) else NotImplemented


def _copy(tensor: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(tensor, QuantizedTensor):
        return tensor.copy_(source.decoded("copy_"))
    if not isinstance(source, QuantizedTensor):
        return NotImplemented
    if source.of is not tensor.of:
        if source.of.scheme != tensor.of.scheme or source.shape != tensor.shape or source.turned != tensor.turned:
            return NotImplemented
        moved = {name: value.to(tensor.device, copy=True) for name, value in source.of.neutral().items()}
        tensor.of.replace(moved)
    return tensor


_OPS: dict[Any, Callable[..., Any]] = {
    aten.detach.default: _same,
    aten.alias.default: _same,
    aten.lift_fresh.default: _same,
    aten.clone.default: _clone,
    aten._to_copy.default: _to_copy,
    aten.t.default: lambda tensor: QuantizedTensor(tensor.of, tensor.dtype, not tensor.turned),
    aten.transpose.int: lambda tensor, first, second: QuantizedTensor(
        tensor.of, tensor.dtype, tensor.turned != (first % 2 != second % 2)
    ),
    aten.permute.default: lambda tensor, dims: QuantizedTensor(
        tensor.of, tensor.dtype, tensor.turned != (dims[0] % 2 == 1)
    ),
    aten.as_strided.default: lambda tensor, size, stride, offset=None: (
        _same(tensor) if (tuple(size), tuple(stride)) == (tuple(tensor.shape), tensor.stride()) else NotImplemented
    ),
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.copy_.default: _copy,
    # Within functions such as that of multi-head attention, which are given weights.
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.addmm.default: _addmm,
}
"""What is done to the tensor below autograd."""
