"""Quantization for Hugging Face Transformers: importing this package registers the method ``hf_quant``."""

from hf_quant.calibration.data import Calibration
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.config.training_recipe import TrainingRecipe
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from hf_quant.evaluation.report import DropReport
from hf_quant.hub.card import write_model_card
from hf_quant.integration.compile import compile, compile_config
from hf_quant.integration.register import register as _register
from hf_quant.planner.optimize_for import optimize_for
from hf_quant.planner.options import Judge, Offer, Search
from hf_quant.planner.report import SearchReport
from hf_quant.qat.distillation import Distillation
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.reporting.report import Report
from hf_quant.reporting.write import read_report, write_report
from hf_quant.workflows.benchmark import benchmark
from hf_quant.workflows.check import CheckReport, check
from hf_quant.workflows.deploy import Deployment, deploy
from hf_quant.workflows.evaluate import evaluate_drop
from hf_quant.workflows.export import export
from hf_quant.workflows.generate import generate_examples
from hf_quant.workflows.inspect import inspect
from hf_quant.workflows.plan import search_plan
from hf_quant.workflows.portability import portability
from hf_quant.workflows.qat import convert
from hf_quant.workflows.qat_callback import QATCallback
from hf_quant.workflows.quantize import quantize
from hf_quant.workflows.train import Trained, train

__version__ = "0.1.0"

__all__ = [
    "BenchmarkReport",
    "Calibration",
    "CheckReport",
    "Deployment",
    "Distillation",
    "DropReport",
    "HfQuantConfig",
    "Judge",
    "Offer",
    "Plan",
    "QATCallback",
    "Recipe",
    "Report",
    "Scheme",
    "Search",
    "SearchReport",
    "TensorScheme",
    "Trained",
    "TrainingRecipe",
    "__version__",
    "benchmark",
    "check",
    "compile",
    "compile_config",
    "convert",
    "deploy",
    "evaluate_drop",
    "export",
    "generate_examples",
    "inspect",
    "optimize_for",
    "portability",
    "quantize",
    "read_report",
    "search_plan",
    "train",
    "write_model_card",
    "write_report",
]

_register()
