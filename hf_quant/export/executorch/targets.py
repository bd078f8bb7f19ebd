"""What is exported to ExecuTorch."""

from __future__ import annotations

from hf_quant.export.executorch.verify import verify
from hf_quant.export.executorch.write import write
from hf_quant.export.target import Target

TARGET = Target(
    write,
    (
        "import executorch.kernels.quantized",
        "from transformers.exporters import ExportedModel",
        'ExportedModel.from_pretrained("{directory}")(**tokenizer(text, return_tensors="pt"))  # one sequence',
        '# on a phone: Module("model.pte") of ExecuTorch, linked with xnnpack_backend and quantized_ops_lib',
    ),
    ("executorch", "torchao"),
    ("executorch", "torchao"),
    "executorch",
    verify,
)
