"""Float modules of a model exchanged for quantized ones, one by one, as a calibrated run solves them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_quant.algorithms import SOLVERS
from hf_quant.algorithms.base import QuantizedWeight
from hf_quant.calibration.pairs import weight_matrix
from hf_quant.config.scheme import Scheme
from hf_quant.formats import weight_facts
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import Places
from hf_quant.modules.weight import stored_name
from hf_quant.quantizing.fill import replace_module
from hf_quant.quantizing.resolve import Resolution


class Replacements:
    """What a plan names, within blocks and outside of them.

    Args:
        model: Changed in place.
        resolution: What is quantized, and how.
        blocks: Name of the list of blocks.
    """

    def __init__(self, model: Any, resolution: Resolution, blocks: str):
        self.model = model
        self.resolution = resolution
        self.blocks = f"{blocks}."
        self._places = Places(model)

    def outside(self, kind: str | None = None) -> dict[str, Scheme]:
        """Modules outside of blocks that get a scheme; those of one kind, if `kind` names one."""
        kinds = self.resolution.inventory.candidates
        return {
            name: scheme
            for name, scheme in self.resolution.plan.modules.items()
            if scheme is not None and not name.startswith(self.blocks) and kind in (None, kinds[name].kind)
        }

    def is_replaced(self, name: str) -> bool:
        """Whether the module is a quantized one already."""
        return isinstance(self.model.get_submodule(name), QuantizedModule | StoredModule)

    def rounded(self, name: str, scheme: Scheme) -> QuantizedWeight | None:
        """The module's weight rounded to nearest; None where it is another's, or floats are stored."""
        if name in self.resolution.ties or not scheme.weight.has_scales:
            return None
        weight = weight_matrix(self.model.get_submodule(name))
        solved: QuantizedWeight = SOLVERS["rtn"]().solve(weight, scheme.weight, f"{name}.weight")
        return solved

    def replace(
        self,
        name: str,
        scheme: Scheme,
        solved: QuantizedWeight | None,
        mean: Tensor | None,
        input_grid: tuple[Tensor, Tensor | None] | None = None,
    ) -> None:
        """Exchange one module (`quantizing.fill.replace_module`); one within a block is made ready to compute."""
        replaced = replace_module(
            self.model, name, scheme, self.resolution.ties, solved, mean, input_grid, self._places
        )
        if isinstance(replaced, QuantizedModule) and name.startswith(self.blocks):
            replaced.check_values(name)
            replaced.prepare()

    def restore(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Make block `index` what it was when these tensors of its state were kept."""
        prefix = f"{self.blocks}{index}."
        for name, scheme in self.resolution.plan.modules.items():
            if name.startswith(prefix) and scheme is not None:
                inner = name.removeprefix(prefix)
                solved = None
                if scheme.weight.has_scales:
                    module = self.model.get_submodule(name)
                    facts = weight_facts(scheme.weight, *weight_matrix(module).shape)
                    solved = {key: tensors[f"{inner}.{stored_name('weight', key)}"] for key in facts}
                replace_module(self.model, name, scheme, self.resolution.ties, solved, places=self._places)
        block = self.model.get_submodule(prefix[:-1])
        block.load_state_dict(tensors)
        for name, module in block.named_modules():
            if isinstance(module, QuantizedModule):
                module.check_values(prefix + name)
                module.prepare()
