"""What is exported by way of ONNX."""

from __future__ import annotations

from hf_quant.export.onnx import openvino, tensorrt
from hf_quant.export.onnx.verify import verify
from hf_quant.export.onnx.write import write
from hf_quant.export.target import Target

_WRITING = ("onnx", "onnxscript", "onnx_ir")

ONNX = Target(
    write,
    (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("{directory}/model.onnx")',
        'session.run(["logits"], {"input_ids": ids, "attention_mask": mask, ...})  # names: session.get_inputs()',
    ),
    _WRITING,
    ("onnxruntime",),
    "onnx",
    verify,
)
OPENVINO = Target(
    openvino.write,
    (
        "import json, openvino",
        'properties = json.load(open("{directory}/openvino_properties.json"))',
        'openvino.Core().compile_model("{directory}/openvino_model.xml", "CPU", properties)',
    ),
    (*_WRITING, "openvino"),
    ("openvino", "onnxruntime"),
    "openvino",
    openvino.verify,
)
TENSORRT = Target(
    tensorrt.write,
    ("trtexec --onnx={directory}/model.onnx --stronglyTyped",),
    _WRITING,
    ("onnxruntime",),
    "onnx",
    tensorrt.verify,
)
