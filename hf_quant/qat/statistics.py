"""How weights lie on their grids while they train."""

from __future__ import annotations

from torch import Tensor, nn

from hf_quant.calibration.pairs import weight_matrix
from hf_quant.qat.input import StaticInput
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.qat.sharded import whole
from hf_quant.qat.weight import WeightSample

_NUMBERS = 1 << 15
"""Numbers of each weight that are looked at: enough for shares of a thousandth, and little beside a training step."""


class TrainingStatistics:
    """Means over the weights of a model, each of which counts alike; `measure` is called now and then."""

    def __init__(self) -> None:
        self._codes: dict[str, Tensor] = {}
        self.modules: dict[str, dict[str, float]] = {}
        """Numbers of the last call of `measure`, by module."""

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Numbers to log: ``qat/scale``, ``qat/clipped`` and ``qat/error`` as in `WeightSample`, ``qat/flips``, the
        share of codes that are others than at the last call, and ``qat/input_scale``, the mean of static inputs.

        Args:
            model: Model from `prepare`; weights that are not rounded at present are left out.
        """
        self.modules = {}
        before, self._codes = self._codes, {}
        input_scales = []
        for name, module in fake_quantized_modules(model):
            if not module.scheme.weight.has_scales:
                continue
            static = module.input_quantizer
            if isinstance(static, StaticInput) and static.grid.is_initialised:
                input_scales.append(float(whole(static.grid.scale.detach())))
            if module.sharing[0] is module and module.weight_quantizer.enabled:
                sample = module.weight_quantizer.sample(weight_matrix(module, whole(module.weight)), _NUMBERS)
                self.modules[name] = _numbers(sample, before.get(name))
                self._codes[name] = sample.codes
        found = {"input_scale": input_scales} if input_scales else {}
        for key in ("scale", "clipped", "error", "flips"):
            values = [numbers[key] for numbers in self.modules.values() if key in numbers]
            if values:
                found[key] = values
        return {f"qat/{key}": sum(values) / len(values) for key, values in found.items()}


def _numbers(sample: WeightSample, before: Tensor | None) -> dict[str, float]:
    numbers = {"scale": float(sample.scale), "clipped": float(sample.clipped), "error": float(sample.error)}
    if before is not None and before.dtype == sample.codes.dtype:
        numbers["flips"] = float((sample.codes != before).float().mean())
    return numbers
