"""ONNX Runtime on the CPU: dynamic INT8 per channel, and INT4 weights in groups of 32."""

# The libraries are those of the peers' interpreter.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runners.base import Generated
from benchmarks.runners.clock import timed_generation
from benchmarks.runners.derived import config_of, derive

_FILE = "model.onnx"
_MOST_IN_ONE_FILE = 1 << 30


def prepare(folder: Path, work: Path, scheme: str) -> Path:
    """Export with optimum-onnx, and quantize; the folder of the result."""
    is_encoder = config_of(folder)["model_type"] == "bert"

    def export(target: Path) -> None:
        import onnx
        from optimum.exporters.onnx import main_export

        task = "feature-extraction" if is_encoder else "text-generation-with-past"
        main_export(str(folder), str(target), task=task, no_post_process=True, do_validation=False)
        if not is_encoder:
            model = onnx.load(target / _FILE)
            _keep_last_logits(model)
            for file in target.glob("*.onnx*"):
                file.unlink()
            onnx.save_model(model, target / _FILE, save_as_external_data=True, location=f"{_FILE}.data")

    def quantize(target: Path) -> None:
        source = derive(work / "onnx", export) / _FILE
        (_to_int8 if scheme == "int8" else _to_int4)(source, target / _FILE)

    return derive(work / f"onnx-{scheme}", quantize)


class OnnxRuntimeModel:
    """A session; the cache goes from output to input without a copy."""

    def __init__(self, folder: Path, bits: float):
        import onnxruntime

        self.bits: float | None = bits
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = int(os.environ["OMP_NUM_THREADS"]), 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(folder / _FILE), options, providers=["CPUExecutionProvider"])
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy

    def encode(self, ids: np.ndarray) -> tuple[float, np.ndarray]:
        """As the contract says."""
        full = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        feed = {name: value for name, value in full.items() if name in self.inputs}
        start = time.perf_counter()
        (hidden,) = self.session.run(["last_hidden_state"], feed)
        return time.perf_counter() - start, hidden

    def generate(self, ids: np.ndarray, steps: int, budget: float) -> Generated:
        """As the contract says."""
        self.past = {
            name: self.value(np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32))
            for name, each in self.inputs.items()
            if name.startswith("past")
        }
        return timed_generation(self.step, self.step, ids, steps, budget)

    def step(self, ids: np.ndarray, position: int) -> np.ndarray:
        """Tokens from `position` on."""
        end, binding = position + ids.shape[1], self.session.io_binding()
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(position, end, dtype=np.int64)[None],
        }
        for name, array in feed.items():
            if name in self.inputs:
                binding.bind_cpu_input(name, array)
        for name, value in self.past.items():
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        values = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        logits = values.pop("logits").numpy()
        self.past = {name.replace("present", "past_key_values"): value for name, value in values.items()}
        return logits[0, -1]

    def read_bytes(self) -> int | None:
        """`bits` says it."""
        return None


def load(folder: Path, work: Path, scheme: str) -> OnnxRuntimeModel:
    """The model in `scheme`."""
    return OnnxRuntimeModel(prepare(folder, work, scheme), 8 if scheme == "int8" else 5)


def _to_int8(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    size = sum(file.stat().st_size for file in source.parent.glob(f"{_FILE}*"))
    quantize_dynamic(
        source,
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        use_external_data_format=size > _MOST_IN_ONE_FILE,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _to_int4(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(onnx.load(source))
    # Conv1D is exported as Gemm, which the quantizer passes over.
    model.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(model.model, block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=True)


def _keep_last_logits(model: Any) -> None:
    """Let the head see the last position only, in place, as generation does."""
    from onnx import TensorProto, helper

    graph = model.graph
    sources = {output: node for node in graph.node for output in node.output}
    head = sources["logits"]
    while head.op_type in ("Cast", "Identity"):
        head = sources[head.input[0]]
    if head.op_type not in ("MatMul", "Gemm"):
        raise RuntimeError(f"the logits come from {head.op_type}, not from a product")
    numbers = {"last_start": -1, "last_stop": np.iinfo(np.int32).max, "last_axis": 1}
    graph.initializer.extend(helper.make_tensor(name, TensorProto.INT64, [1], [n]) for name, n in numbers.items())
    last = helper.make_node("Slice", [head.input[0], *numbers], ["last_hidden"])
    head.input[0] = "last_hidden"
    graph.node.insert(list(graph.node).index(head), last)
    length = next(output for output in graph.output if output.name == "logits").type.tensor_type.shape.dim[1]
    length.Clear()
    length.dim_param = "last"
