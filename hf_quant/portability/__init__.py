"""What other runtimes take of a scheme: facts of each target, below everything that plans or exports."""

from hf_quant.registry import Registry

TARGETS = Registry(
    "portability target",
    {
        "compressed-tensors": "hf_quant.portability.compressed_tensors:FACTS",
        "vllm": "hf_quant.portability.vllm:FACTS",
        "sglang": "hf_quant.portability.vllm:SGLANG",
        "onnx": "hf_quant.portability.onnx:FACTS",
        "openvino": "hf_quant.portability.onnx:OPENVINO",
        "tensorrt": "hf_quant.portability.tensorrt:FACTS",
        "gguf": "hf_quant.portability.gguf:FACTS",
        "executorch": "hf_quant.portability.executorch:FACTS",
        "coreml": "hf_quant.portability.coreml:FACTS",
    },
)
"""What a model can be exported to, to what that takes of a scheme: a `facts.Facts`."""
