"""Solvers: weight to codes. Transforms: float weights to float weights that are easier to quantize."""

from hf_quant.registry import Registry

SOLVERS = Registry(
    "solver",
    {
        "rtn": "hf_quant.algorithms.rtn:RoundToNearest",
        "mse": "hf_quant.algorithms.mse:ClippedToNearest",
        "gptq": "hf_quant.algorithms.gptq:GPTQ",
    },
)

BLOCK_SOLVERS = Registry("block solver", {"signround": "hf_quant.algorithms.signround:SignRound"})
TRANSFORMS = Registry(
    "transform",
    {
        "smoothquant": "hf_quant.algorithms.smoothquant:SmoothQuant",
        "awq": "hf_quant.algorithms.awq:Awq",
        "awq-clip": "hf_quant.algorithms.awq_clip:AwqClip",
    },
)
