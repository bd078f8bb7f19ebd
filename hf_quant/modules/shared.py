"""One weight that several modules read, such as that of an embedding and the head tied to it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_quant.kernels.dispatch import get_kernel, select_kernel
from hf_quant.modules.paging import page_out, stand_in

if TYPE_CHECKING:
    from hf_quant.modules.base import QuantizedModule


class SharedWeight:
    """Whose the weight is, who reads it, and its codes while a kernel's layout has taken their place.

    Args:
        owner: The module that saves the weight.
    """

    def __init__(self, owner: QuantizedModule):
        self.owner = owner
        self.readers: list[QuantizedModule] = []
        self._neutral: weakref.ref[nn.Parameter] | None = None

    @property
    def members(self) -> list[QuantizedModule]:
        """Everyone who reads the weight, its owner first."""
        return [self.owner, *self.readers]

    def neutral(self) -> nn.Parameter:
        """The codes as one parameter for all members: the same one for as long as anybody holds it."""
        found = None if self._neutral is None else self._neutral()
        if found is None:
            # Packed as one of those who multiply with it wants it, which may be more than a look-up needs.
            packed_for = next(member for member in self.members if member.multiplies)
            words = get_kernel(str(packed_for.kernel)).unpack(packed_for.packed, packed_for.spec)
            found = nn.Parameter(words, requires_grad=False)
            self._neutral = weakref.ref(found)
        return found

    def prepack(self) -> bool:
        """Lay the weight out once, for products and look-ups; False where no kernel serves all members."""
        products = [member for member in self.members if member.multiplies]
        if not products or any(member.spec != products[0].spec for member in products[1:]):
            return False
        kernel = select_kernel(products[0].spec, self.owner.weight.device)
        if kernel.look_up is None or any(member.kernel is not None for member in self.members):
            return False
        packed = kernel.prepack(products[0].operands(), products[0].spec)
        page_out(self.owner.weight.data)
        weight = stand_in(self.owner.weight)
        for member in self.members:
            member.adopt(kernel, packed, weight)
        return True

    def release(self) -> None:
        """Undo `prepack`: every member holds the neutral codes again, as one parameter."""
        weight = self.neutral()
        for member in self.members:
            member.abandon(weight)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_neutral": None}
