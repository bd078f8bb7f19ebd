"""OpenVINO on the CPU as its plugin sets itself up: nncf's INT8 (calibrated for encoders) and INT4 weights."""

# The libraries are those of the peers' interpreter.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runners.base import Generated
from benchmarks.runners.clock import timed_generation
from benchmarks.runners.derived import config_of, derive, looked_up_weights

_FILE = "openvino_model.xml"
_CALIBRATION = 16


def prepare(folder: Path, work: Path, scheme: str) -> Path:
    """Export with optimum-intel, and quantize with nncf; the folder of the result."""
    import nncf
    import openvino

    def export(target: Path) -> None:
        from optimum.exporters.openvino import main_export
        from optimum.intel import OVConfig

        task = "feature-extraction" if _is_encoder(folder) else "text-generation-with-past"
        main_export(str(folder), str(target / "raw"), task=task, ov_config=OVConfig(dtype="fp32"), stateful=True)
        model = openvino.Core().read_model(target / "raw" / _FILE)
        if not _is_encoder(folder):
            _keep_last_logits(model)
        openvino.save_model(model, target / _FILE, compress_to_fp16=False)
        shutil.rmtree(target / "raw")

    def quantize(target: Path) -> None:
        model = openvino.Core().read_model(derive(work / "openvino", export) / _FILE)
        if _is_encoder(folder):
            model = nncf.quantize(
                model, nncf.Dataset(_texts(model)), model_type=nncf.ModelType.TRANSFORMER, subset_size=_CALIBRATION
            )
        elif scheme == "int8":
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        else:
            config = config_of(folder)
            width = config.get("hidden_size") or config["n_embd"]
            size = 128 if width % 128 == 0 else 64
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=size, ratio=1.0)
        openvino.save_model(model, target / _FILE, compress_to_fp16=False)

    return derive(work / f"openvino-{scheme}", quantize)


class OpenVinoModel:
    """A compiled model with its cache inside."""

    bits: float | None = None

    def __init__(self, folder: Path, config: dict[str, Any]):
        import openvino

        threads = {
            "INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(str(folder / _FILE), "CPU", threads)
        self.request = compiled.create_infer_request()
        self.inputs = {name for each in compiled.inputs for name in each.get_names()}
        # Tables that are only looked up are in INT8 as well.
        self.read = (folder / _FILE).with_suffix(".bin").stat().st_size - looked_up_weights(config)

    def encode(self, ids: np.ndarray) -> tuple[float, np.ndarray]:
        """As the contract says."""
        feed = self.feed(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
        start = time.perf_counter()
        result = self.request.infer(feed)
        return time.perf_counter() - start, np.array(result["last_hidden_state"])

    def generate(self, ids: np.ndarray, steps: int, budget: float) -> Generated:
        """As the contract says."""
        self.request.reset_state()
        return timed_generation(self.step, self.step, ids, steps, budget)

    def step(self, ids: np.ndarray, position: int) -> np.ndarray:
        """Tokens from `position` on."""
        end = position + ids.shape[1]
        feed = self.feed(
            input_ids=ids,
            attention_mask=np.ones((1, end), np.int64),
            position_ids=np.arange(position, end, dtype=np.int64)[None],
            beam_idx=np.zeros(1, np.int32),
        )
        self.request.infer(feed, share_inputs=True)
        return self.request.get_tensor("logits").data[0, -1]

    def feed(self, **values: np.ndarray) -> dict[str, np.ndarray]:
        """Those of `values` that the model takes."""
        return {name: value for name, value in values.items() if name in self.inputs}

    def read_bytes(self) -> int | None:
        """The size of the weights' file without tables that rows are looked up in."""
        return self.read


def load(folder: Path, work: Path, scheme: str) -> OpenVinoModel:
    """The model in `scheme`."""
    return OpenVinoModel(prepare(folder, work, scheme), config_of(folder))


def _is_encoder(folder: Path) -> bool:
    return config_of(folder)["model_type"] == "bert"


def _texts(model: Any) -> list[dict[str, np.ndarray]]:
    generator, names = np.random.default_rng(1), [each.get_any_name() for each in model.inputs]
    texts = []
    for _ in range(_CALIBRATION):
        ids = generator.integers(5, 30000, size=(1, 128), dtype=np.int64)
        full = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        texts.append({name: full[name] for name in names})
    return texts


def _keep_last_logits(model: Any) -> None:
    """Let the head see the last position only, in place, as generation does."""
    from openvino import opset13

    result = next(each for each in model.get_results() if "logits" in each.input_value(0).get_names())
    node = result.input_value(0).get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "MatMul":
        raise RuntimeError(f"the logits come from {node.get_type_name()}, not from a product")
    start, stop, step, axis = (opset13.constant(np.array([n], np.int64)) for n in (-1, np.iinfo(np.int32).max, 1, 1))
    last = opset13.slice(node.input_value(0), start, stop, step, axis)
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()
