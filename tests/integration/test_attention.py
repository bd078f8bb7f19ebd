"""Quantized models run native attention where they would run ``sdpa``; no setting that other code reads is changed."""

import copy
import json
import pickle

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM, CompileConfig, GenerationConfig, StaticCache
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.integration import attention, native_attention
from hf_quant.kernels.native import library
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, run_python, tiny_model, token_ids

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")


@pytest.fixture
def calls(monkeypatch):
    """How often the native op ran."""
    made = []
    original = native_attention._attention_op
    monkeypatch.setattr(native_attention, "_attention_op", lambda *a: (made.append(a), original(*a))[1])
    return made


@pytest.fixture
def registered():
    """Whatever a test registers as ``sdpa`` is gone after it."""
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    AttentionInterface.register("sdpa", sdpa_attention_forward)
    yield AttentionInterface.register
    AttentionInterface.register("sdpa", before)


def without_native(model, run):
    attention.restore(model)
    found = run(model)
    attention.choose(model)
    return found


@pytest.mark.parametrize("name", [*FAMILIES, "llama-gqa"])
def test_it_computes_what_sdpa_computes(name, load, calls):
    model = load(name, "w8a16")
    for ids in (token_ids(), token_ids(1, 40), token_ids(3, 1)):
        found = outputs(model, ids)
        assert error(found, without_native(model, lambda model, ids=ids: outputs(model, ids))) < 1e-5
    assert len(calls) == 3 * model.config.num_hidden_layers


@pytest.mark.parametrize("name", [*FAMILIES, "llama-gqa"])
def test_padding_is_not_seen(name, load, calls):
    model = load(name, "w8a16")
    ids = token_ids(2, 20)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0

    @torch.no_grad()
    def run(model):
        return model(input_ids=ids, attention_mask=mask).logits

    found = run(model)
    assert calls and error(found[mask.bool()], without_native(model, run)[mask.bool()]) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_generation_with_dynamic_and_static_caches_agrees(name, load, calls):
    model = load(name, "int8")
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    ids = token_ids(1, 10)
    dynamic = model.generate(ids, **options)
    static = model.generate(ids, past_key_values=StaticCache(config=model.config, max_cache_len=32), **options)
    assert len(calls) == 2 * 8 * model.config.num_hidden_layers
    assert torch.equal(dynamic, static)
    assert torch.equal(dynamic, without_native(model, lambda model: model.generate(ids, **options)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_compiled_generation_is_native_and_says_the_same(load, calls):
    model = load("llama-gqa", "int8")
    targets = []

    def backend(graph, inputs, options):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compiler.reset()
    config = hf_quant.compile_config()
    assert isinstance(config, CompileConfig)
    config.backend = backend
    options = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(token_ids(1, 10), **options)
    found = model.generate(token_ids(1, 10), cache_implementation="static", compile_config=config, **options)
    torch.compiler.reset()
    assert torch.equal(found, expected)
    assert sum("native_attention" in target for target in targets) == model.config.num_hidden_layers
    assert not any("scaled_dot_product" in target for target in targets)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("preset", ["int8", "w4a16"])
def test_continuous_batching_says_what_generate_says(preset, load):
    model = load("llama-gqa", preset)
    prompts = [[5, 6, 7, 8, 9], [10, 11, 12], [20] * 9]
    config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=127, pad_token_id=1)
    alone = [model.generate(torch.tensor([p]), generation_config=config)[0, len(p) :].tolist() for p in prompts]
    few = ContinuousBatchingConfig(num_blocks=16)  # by default it takes most of the machine's memory
    found = model.generate_batch(inputs=prompts, generation_config=config, continuous_batching_config=few)
    assert sorted(list(each.generated_tokens) for each in found.values()) == sorted(alone)


@pytest.mark.parametrize("asked", ["eager", "sdpa"])
def test_the_setting_stays_what_was_asked_for(asked, checkpoints, calls):
    model = AutoModelForCausalLM.from_pretrained(
        checkpoints["llama"], quantization_config=HfQuantConfig("int8"), attn_implementation=asked
    )
    assert model.config._attn_implementation == asked
    outputs(model)
    assert bool(calls) == (asked == "sdpa")


def test_another_implementation_can_be_set_and_sdpa_set_back(load, calls):
    model = load("llama", "w8a16")
    expected = outputs(model)
    seen = len(calls)
    model.set_attn_implementation("eager")
    assert error(outputs(model), expected) < 1e-5 and len(calls) == seen
    model.set_attn_implementation("sdpa")
    assert torch.equal(outputs(model), expected) and len(calls) == 2 * seen


def test_float_models_beside_a_quantized_one_run_what_they_ran(load, calls, registered):
    model = tiny_model("llama")
    expected = outputs(model)
    quantized = load("llama", "int8")
    assert attention.uses_native(quantized) and not attention.uses_native(model)
    assert torch.equal(outputs(model), expected) and not calls
    assert not attention.uses_native(load("llama", "fp32"))


def test_gradients_and_dropout_go_to_sdpa(load, calls):
    model = load("gpt2", "int8")
    embeddings = model.get_input_embeddings()(token_ids()).detach().requires_grad_()
    model(inputs_embeds=embeddings).logits.sum().backward()
    assert not calls and embeddings.grad.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_does_not_mention_it(name, load, tmp_path):
    load(name, "int8").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert not [key for key in saved if "attn_implementation" in key]
    model = auto_class(name).from_pretrained(tmp_path)
    assert attention.uses_native(model) and model.config._attn_implementation == "sdpa"


def test_a_dequantized_model_runs_sdpa(load, calls):
    model = load("llama", "int8").dequantize()
    outputs(model)
    assert not calls and not any(attention.MARK in vars(module) for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("through", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_run_it_as_well(through, load, calls):
    model = load("llama", "int8")
    expected = outputs(model)
    seen = len(calls)
    assert torch.equal(outputs(through(model)), expected) and len(calls) == 2 * seen


def test_a_model_unpickled_in_another_process_runs_it(load, tmp_path):
    model = load("llama", "int8")
    (tmp_path / "model").write_bytes(pickle.dumps((model, token_ids(), outputs(model))))
    code = """
        import pickle, sys, torch
        with open(sys.argv[1], "rb") as file:
            model, ids, expected = pickle.load(file)
        from hf_quant.integration import native_attention
        made, original = [], native_attention._attention_op
        native_attention._attention_op = lambda *a: (made.append(a), original(*a))[1]
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, expected)
        assert len(made) == model.config.num_hidden_layers
    """
    done = run_python(code, tmp_path / "model")
    assert done.returncode == 0, done.stderr


def test_importing_the_package_changes_no_attention():
    code = """
        import hf_quant
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
        assert "hf_quant" not in ALL_ATTENTION_FUNCTIONS and "hf_quant" not in ALL_MASK_ATTENTION_FUNCTIONS
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def own_sdpa(*args, **kwargs):
    output, weights = sdpa_attention_forward(*args, **kwargs)
    return output * 0.5, weights


def test_a_function_that_the_user_registered_before_is_left_and_told_of(load, calls, registered, caplog):
    registered("sdpa", own_sdpa)
    model = load("llama", "w8a16")
    assert not attention.uses_native(model) and "not Transformers' own" in caplog.text
    found = outputs(model)
    registered("sdpa", sdpa_attention_forward)
    assert not calls and error(found, outputs(model)) > 0.1


def test_a_function_that_the_user_registers_later_is_run(load, calls, registered):
    model = load("llama", "w8a16")
    expected = outputs(model)
    seen = len(calls)
    registered("sdpa", own_sdpa)
    assert error(outputs(model), expected) > 0.1 and len(calls) == seen


def test_an_override_in_one_modeling_file_is_run(load, calls, monkeypatch):
    model = load("llama", "w8a16")
    expected = outputs(model)
    seen = len(calls)
    own = AttentionInterface()
    own["sdpa"] = own_sdpa
    monkeypatch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", own)
    assert error(outputs(model), expected) > 0.1 and len(calls) == seen


def test_what_is_borrowed_of_transformers_is_there(load, registered):
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    assert ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", None) is sdpa_attention_forward
    load("llama", "int8")
    assert ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", None) is attention.sdpa_or_native
    assert attention.install()
