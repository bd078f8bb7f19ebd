"""Token sequences to calibrate tiny models on, none of which other tests measure with."""

from hf_quant import Calibration, HfQuantConfig
from hf_quant.config.presets import PRESETS
from tests.integration.tiny import token_ids

HELD_OUT = token_ids(rows=8, length=32, seed=7)


def sequences(lengths=(32, 20) * 16):
    """Random token ids of these lengths: batches of them are padded."""
    return [token_ids(rows=1, length=length, seed=100 + index)[0] for index, length in enumerate(lengths)]


def calibration(dataset=None, **options):
    """Sequences one by one, padded where they are shorter than others of their batch."""
    options = {"samples": 32, "sequence_length": 32, "packing": False, **options}
    return Calibration(sequences() if dataset is None else dataset, **options)


def preset_config(preset):
    """Of a preset, with data where it takes any."""
    input = PRESETS[preset].linear.input
    is_static = input is not None and not input.dynamic
    return HfQuantConfig(preset, calibration=calibration() if is_static else None)


def config(preset="w4a16", data=None, **recipe):
    """Of a recipe, with data."""
    return HfQuantConfig(preset, recipe=recipe, calibration=data or calibration())
