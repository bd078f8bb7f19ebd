"""Pictures of a report, one per file; each is a matplotlib figure, or None where there is nothing to draw."""

from hf_quant.registry import Registry

PLOTS = Registry(
    "plot",
    {
        "drop": "hf_quant.reporting.plots.drop:draw",
        "size": "hf_quant.reporting.plots.size:draw",
        "latency": "hf_quant.reporting.plots.latency:draw",
        "layers": "hf_quant.reporting.plots.layers:draw",
    },
)
"""Names of pictures to functions ``draw(report) -> Picture | None``, in the order of a page."""
