"""A quantized model as the files of other programs: codes and scales are carried across, never quantized again."""

from hf_quant.registry import Registry

TARGETS = Registry(
    "export target",
    {
        "compressed-tensors": "hf_quant.export.compressed_tensors:TARGET",
        "vllm": "hf_quant.export.compressed_tensors:VLLM",
        "sglang": "hf_quant.export.compressed_tensors:SGLANG",
        "onnx": "hf_quant.export.onnx.targets:ONNX",
        "openvino": "hf_quant.export.onnx.targets:OPENVINO",
        "tensorrt": "hf_quant.export.onnx.targets:TENSORRT",
        "gguf": "hf_quant.export.gguf.writing:TARGET",
        "executorch": "hf_quant.export.executorch.targets:TARGET",
    },
)
"""What a model can be exported to; each is a `target.Target`, whose facts are under the same name in `portability`."""
