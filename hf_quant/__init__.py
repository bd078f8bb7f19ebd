"""Quantization for Hugging Face Transformers: importing this package registers the method ``hf_quant``."""

from hf_quant.calibration.data import Calibration
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.integration.compile import compile, compile_config
from hf_quant.integration.config import HfQuantConfig
from hf_quant.integration.register import register as _register
from hf_quant.workflows.inspect import inspect
from hf_quant.workflows.quantize import quantize

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "HfQuantConfig",
    "Plan",
    "Recipe",
    "Scheme",
    "TensorScheme",
    "__version__",
    "compile",
    "compile_config",
    "inspect",
    "quantize",
]

_register()
