"""A quantized model as the files of other programs: codes and scales are carried across, never quantized again."""

from hf_quant.registry import Registry

TARGETS = Registry(
    "export target",
    {
        "compressed-tensors": "hf_quant.export.compressed_tensors:TARGET",
        "vllm": "hf_quant.export.compressed_tensors:VLLM",
        "sglang": "hf_quant.export.compressed_tensors:SGLANG",
        "gguf": "hf_quant.export.gguf.writing:TARGET",
    },
)
"""What a model can be exported to; each is a `target.Target`, whose facts are under the same name in `portability`."""
