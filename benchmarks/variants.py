"""Every way that a model is run, as a table: what is compared with what."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.runners.base import Runner


@dataclass(frozen=True)
class Variant:
    """One way to run models.

    Args:
        module: Of `benchmarks.runners`; its ``load(folder, work, **options)`` returns a runner; what it derives
            from the checkpoint, by ``prepare`` with the same arguments, lies in `work`.
        options: For it.
        peer: Whether it runs in the interpreter of the peers.
        encodes, decodes: Which tasks it does.
        decodes_only: Whether only the time of a token is worth a measurement.
        largest: Whether it takes models that are too large for float32.
    """

    module: str
    options: dict[str, Any] = field(default_factory=dict)
    peer: bool = False
    encodes: bool = True
    decodes: bool = True
    decodes_only: bool = False
    largest: bool = False

    @property
    def _module(self) -> Any:
        return import_module(f"benchmarks.runners.{self.module}")

    def prepare(self, folder: Path, work: Path) -> None:
        """Make the files that `load` needs, which may take much time and memory."""
        if hasattr(self._module, "prepare"):
            self._module.prepare(folder, work, **self.options)

    def load(self, folder: Path, work: Path) -> Runner:
        """The model of `folder`."""
        return self._module.load(folder, work, **self.options)


REFERENCE = "fp32"

VARIANTS = {
    REFERENCE: Variant("transformers_model", {"dtype": "float32"}),
    "bf16": Variant("transformers_model", {"dtype": "bfloat16"}),
    "torch.ao int8": Variant("torch_ao"),
    "int8": Variant("hf_quant_model", {"preset": "int8"}),
    "int4": Variant("hf_quant_model", {"preset": "int4"}, largest=True),
    "int8-static": Variant("hf_quant_model", {"preset": "int8-static"}, decodes=False),
    "w8a16": Variant("hf_quant_model", {"preset": "w8a16"}),
    "w4a16": Variant("hf_quant_model", {"preset": "w4a16"}, largest=True),
    "int8 compiled": Variant("hf_quant_model", {"preset": "int8", "compiled": True}, encodes=False, decodes_only=True),
    "int4 compiled": Variant(
        "hf_quant_model", {"preset": "int4", "compiled": True}, encodes=False, decodes_only=True, largest=True
    ),
    "torchao int8": Variant("torchao_model", {"scheme": "int8"}, peer=True),
    "torchao int4": Variant("torchao_model", {"scheme": "int4"}, peer=True, encodes=False),
    "openvino int8": Variant("openvino_model", {"scheme": "int8"}, peer=True),
    "openvino int4": Variant("openvino_model", {"scheme": "int4"}, peer=True, encodes=False),
    "onnxruntime int8": Variant("onnxruntime_model", {"scheme": "int8"}, peer=True),
    "onnxruntime int4": Variant("onnxruntime_model", {"scheme": "int4"}, peer=True, encodes=False),
    "llama.cpp q8_0": Variant("llamacpp_model", {"scheme": "q8_0"}, peer=True, encodes=False),
    "llama.cpp q4_0": Variant("llamacpp_model", {"scheme": "q4_0"}, peer=True, encodes=False, largest=True),
}
"""The names without a library's are the presets of this package."""
