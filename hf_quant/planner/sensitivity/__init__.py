"""How much a model loses by each scheme for each module: one measure a file, one interface (`base.Measure`)."""

from hf_quant.registry import Registry

_HERE = "hf_quant.planner.sensitivity"

MEASURES = Registry(
    "sensitivity measure",
    {
        "fisher": f"{_HERE}.fisher:Fisher",
        "hessian": f"{_HERE}.hessian:HessianTrace",
        "output-error": f"{_HERE}.output_error:OutputError",
        "loss": f"{_HERE}.loss:LossChange",
        "kl": f"{_HERE}.kl:KlDivergence",
    },
)
"""Names of measures to subclasses of `base.Measure`; `analysis.analyse` runs them."""
