"""Observers: from the values that calibration sees to the range of a static grid."""

from hf_quant.registry import Registry

OBSERVERS = Registry(
    "observer",
    {
        "minmax": "hf_quant.observers.minmax:MinMax",
        "moving_average": "hf_quant.observers.moving_average:MovingAverage",
        "percentile": "hf_quant.observers.percentile:Percentile",
        "mse": "hf_quant.observers.mse:MeanSquaredError",
        "histogram_kl": "hf_quant.observers.histogram_kl:HistogramKL",
    },
)
"""Ways to choose the range of a tensor."""
