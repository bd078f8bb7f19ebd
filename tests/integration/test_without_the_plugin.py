"""A process that never imports the plugin, and a process that imports it more than once."""

import importlib
import json

import pytest
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import hf_quant
from hf_quant import HfQuantConfig
from tests.integration.tiny import FAMILIES, run_python

OPEN_ALL = """
    import json, sys
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    seen = {}
    for directory in sys.argv[1:]:
        for auto_class in (AutoModelForMaskedLM if "bert" in directory else AutoModelForCausalLM, AutoModel):
            try:
                model = auto_class.from_pretrained(directory)
                model(input_ids=torch.arange(8)[None])
                seen[f"{directory} {auto_class.__name__}"] = "ran"
            except Exception as error:
                seen[f"{directory} {auto_class.__name__}"] = f"{type(error).__name__}: {error}"[:300]
    assert "hf_quant" not in sys.modules
    print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def outsider(quantized_checkpoints):
    """Directory and auto class to what a process without the plugin made of it."""
    wanted = [quantized_checkpoints[name, preset] for name in FAMILIES for preset in ("int8", "int4")]
    done = run_python(OPEN_ALL, *wanted)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_quantized_checkpoint_raises_and_never_runs(name, preset, outsider, quantized_checkpoints):
    outcomes = [seen for key, seen in outsider.items() if f"{quantized_checkpoints[name, preset]} " in key]
    assert len(outcomes) == 2
    assert all(seen.startswith("RuntimeError") for seen in outcomes), outcomes


def test_importing_again_and_registering_again_change_nothing(load):
    before = AUTO_QUANTIZATION_CONFIG_MAPPING["hf_quant"], AUTO_QUANTIZER_MAPPING["hf_quant"]
    importlib.reload(hf_quant)
    hf_quant._register()
    assert (AUTO_QUANTIZATION_CONFIG_MAPPING["hf_quant"], AUTO_QUANTIZER_MAPPING["hf_quant"]) == before
    assert load("bert", HfQuantConfig("int8")).is_quantized


def test_a_process_that_loads_the_package_twice_over_still_works(checkpoints, tmp_path):
    code = """
        import sys
        import hf_quant
        for name in [name for name in sys.modules if name.startswith("hf_quant.integration")]:
            del sys.modules[name]
        del sys.modules["hf_quant"], sys.modules["hf_quant.workflows.quantize"]
        import hf_quant
        from transformers import AutoModelForCausalLM
        config = hf_quant.HfQuantConfig("int8")
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1], quantization_config=config)
        model.save_pretrained(sys.argv[2])
        print(AutoModelForCausalLM.from_pretrained(sys.argv[2]).config.quantization_config.preset)
    """
    done = run_python(code, checkpoints["gpt2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "int8"


def test_a_checkpoint_loads_in_a_fresh_process_with_nothing_but_the_import(quantized_checkpoints):
    code = """
        import sys
        import hf_quant
        from transformers import AutoModelForCausalLM
        print(AutoModelForCausalLM.from_pretrained(sys.argv[1]).config.quantization_config.preset)
    """
    done = run_python(code, quantized_checkpoints["llama", "int4"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "int4"
    assert "Warning" not in done.stderr
