"""Checkpoints that are built once and only read by the tests."""

import pytest
import torch

import hf_quant  # noqa: F401 - registers the method
from tests.integration.calibration_data import preset_config
from tests.integration.tiny import CHECKPOINTS, auto_class, outputs, tiny_model


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Name of a tiny model to the directory of its float checkpoint, language-model head included."""
    root = tmp_path_factory.mktemp("float")
    for name in CHECKPOINTS:
        tiny_model(name).save_pretrained(root / name)
    return {name: root / name for name in CHECKPOINTS}


@pytest.fixture(scope="session")
def float_outputs(checkpoints):
    """Name to the float32 logits of that checkpoint."""
    return {name: outputs(auto_class(name).from_pretrained(path)) for name, path in checkpoints.items()}


@pytest.fixture(scope="session")
def load(checkpoints):
    """`load(name, preset or config, **options)`: a float checkpoint, quantized on the fly."""

    def load_quantized(name, config="int8", model_class=None, **options):
        config = preset_config(config) if isinstance(config, str) else config
        options = {"dtype": torch.float32, **options}
        return (
            (model_class or auto_class(name))
            .from_pretrained(checkpoints[name], quantization_config=config, **options)
            .eval()
        )

    return load_quantized


@pytest.fixture(scope="session")
def quantized_checkpoints(load, tmp_path_factory):
    """(Name, preset) to the directory of a quantized checkpoint, for the presets int8 and int4."""
    root = tmp_path_factory.mktemp("quantized")
    directories = {}
    for name in CHECKPOINTS:
        for preset in ("int8", "int4"):
            directories[name, preset] = root / f"{name}-{preset}"
            model = load(name, preset)
            model.save_pretrained(directories[name, preset])
    return directories
