"""A process forked after loading, quantizing or saving computes: nothing leaves OpenMP's threads behind."""

import json
import os
import textwrap

import pytest

from tests.integration.tiny import run_python, tiny_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")

PRELUDE = """
    import copy, json, os, pickle, signal, sys, time
    import torch
    from transformers import AutoModelForMaskedLM
    import hf_quant

    path, scratch = sys.argv[1:]
    torch.set_num_threads(2)
    ids = torch.arange(8 * 64).reshape(8, 64)

    def logits(model):
        with torch.no_grad():
            return model.eval()(ids).logits

    def load(path=path, **options):
        return AutoModelForMaskedLM.from_pretrained(path, **options)

    def on_the_fly(preset="int8"):
        return load(quantization_config=hf_quant.HfQuantConfig(preset))

    def in_child(function):
        # What it returns in a forked process; None where that has not ended after a minute, or failed.
        result = os.path.join(scratch, "result.pt")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.save(function(), result)
                status = 0
            finally:
                os._exit(status)
        for _ in range(600):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return torch.load(result) if status == 0 else None
            time.sleep(0.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
"""

AFTER_LOADING = """
    def in_memory(preset):
        return hf_quant.quantize(load(), preset, progress=False)

    def failed():
        # What goes wrong in the last of a model's modules leaves no threads of those before either.
        try:
            on_the_fly("int8").save_pretrained(scratch + "/bad")
            from safetensors.torch import load_file, save_file
            tensors = load_file(scratch + "/bad/model.safetensors")
            last = [name for name in tensors if name.endswith("weight_scale")][-1]
            tensors[last].fill_(float("nan"))
            save_file(tensors, scratch + "/bad/model.safetensors", {"format": "pt"})
            load(scratch + "/bad")
        except hf_quant.errors.CheckpointError:
            return load()

    def used(use):
        model = on_the_fly()
        use(model)
        return model

    cases = {
        "float": load,
        "int8 on the fly": on_the_fly,
        "int4 on the fly": lambda: on_the_fly("int4"),
        "saved": lambda: used(lambda model: model.save_pretrained(scratch + "/int8")),
        "loaded again": lambda: load(scratch + "/int8"),
        "int8 in memory": lambda: in_memory("int8"),
        "w8a16 in memory": lambda: in_memory("w8a16"),
        "pickled": lambda: used(pickle.dumps),
        "dequantized": lambda: on_the_fly().dequantize(),
        "failed": failed,
    }
    kept = {}
    for name, make in cases.items():
        model = make()
        kept[name] = model, in_child(lambda: logits(model))
    # Computes here, which starts threads, only now.
    print(json.dumps({n: found is not None and torch.equal(found, logits(m)) for n, (m, found) in kept.items()}))
"""

IN_CHILD_OF_ONE_THREAD = """
    # This process has computed: its children know of threads that they do not have. With one thread they need none.
    expected = logits(on_the_fly())

    def compute():
        torch.set_num_threads(1)
        return logits(on_the_fly())

    found = in_child(compute)
    print(json.dumps({"loaded": found is not None and torch.equal(found, expected)}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A float model large enough that torch's own operations use several threads."""
    path = tmp_path_factory.mktemp("float")
    tiny_model("bert", hidden_size=256, intermediate_size=1024, vocab_size=1000).save_pretrained(path)
    return path


def answers(code, *arguments):
    done = run_python(textwrap.dedent(PRELUDE) + textwrap.dedent(code), *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("isa", ["", "none"])
def test_a_forked_process_computes_what_this_one_does(isa, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_QUANT_ISA", isa)
    found = answers(AFTER_LOADING, checkpoint, tmp_path)
    assert len(found) == 10 and all(found.values()), found


def test_a_process_forked_late_loads_and_computes_with_one_thread(checkpoint, tmp_path):
    assert answers(IN_CHILD_OF_ONE_THREAD, checkpoint, tmp_path) == {"loaded": True}
