"""Weights that do not belong to their plan, or to no quantizer at all, are refused by name; nothing crashes."""

import json
import random
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_quant import quantize
from hf_quant.errors import CheckpointError, HfQuantError
from tests.integration.tampering import (
    SCHEMES,
    WEIGHTS,
    Tamper,
    assert_in_range,
    float_model,
    inner,
    load,
    logits,
    save_all,
)

INTEGER = [name for name in SCHEMES if name != "bert-fp16"]
SUFFIXES = {
    name: ["weight", "weight_scale", *(["weight_zero_point"] if name in ("gpt2-int4", "llama-int4") else [])]
    for name in INTEGER
} | {"llama-asym8": ["weight", "weight_scale", "weight_zero_point"]}
TENSORS = [(name, suffix) for name, suffixes in SUFFIXES.items() for suffix in suffixes]
DTYPES = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.float32, torch.float16]


@pytest.fixture(scope="module")
def tamper(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    return Tamper(save_all(root / "intact"), root / "damaged")


def refused(directory, named, fix="(download|save|belong together)"):
    """Loading raises an error that names the tensor and the fix."""
    with pytest.raises(CheckpointError) as raised:
        load(directory)
    assert named in str(raised.value)
    assert re.search(fix, str(raised.value)), raised.value


@pytest.mark.parametrize("name", SCHEMES)
def test_an_undamaged_copy_loads_and_is_in_range(tamper, name):
    model = load(tamper.copy(name))
    assert logits(model).isfinite().all()
    if name != "bert-fp16":
        assert_in_range(model)


@pytest.mark.parametrize(("name", "suffix"), TENSORS)
def test_a_missing_tensor_is_refused(tamper, name, suffix):
    full = f"{inner(name)}.{suffix}"
    refused(tamper.tensors(name, lambda tensors: tensors.pop(full)), full)


@pytest.mark.parametrize(("name", "suffix"), TENSORS)
def test_every_other_shape_is_refused(tamper, name, suffix):
    full = f"{inner(name)}.{suffix}"
    reshapes = [
        lambda t: t.mT if t.ndim == 2 else t[:, None],
        lambda t: t.flatten() if t.ndim == 2 else t.reshape(2, -1),
        lambda t: t[None],
        lambda t: t[:-1],
        lambda t: t[:0],
        lambda t: torch.cat([t, t]),
        lambda t: torch.cat([t, t], dim=-1),
        lambda t: t.reshape(-1)[0],
    ]
    for reshape in reshapes:
        refused(
            tamper.tensors(name, lambda tensors, reshape=reshape: tensors.update({full: reshape(tensors[full])})), full
        )


@pytest.mark.parametrize(("name", "suffix"), TENSORS)
def test_every_other_dtype_is_refused(tamper, name, suffix):
    full = f"{inner(name)}.{suffix}"
    original = load_file(tamper.intact / name / WEIGHTS)[full].dtype
    for dtype in DTYPES:
        if dtype != original:
            directory = tamper.tensors(name, lambda t, dtype=dtype: t.update({full: t[full].to(dtype)}))
            refused(directory, full)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0, -0.0])
@pytest.mark.parametrize("name", INTEGER)
def test_a_scale_that_is_not_finite_or_is_zero_is_refused(tamper, name, value):
    full = f"{inner(name)}.weight_scale"
    refused(tamper.tensors(name, lambda tensors: tensors[full].view(-1)[-1:].fill_(value)), full)


# Scales of symmetric weights of less than 8 bits have a sign.
@pytest.mark.parametrize("name", [name for name in INTEGER if name != "llama-3bit"])
def test_a_negative_scale_is_refused_where_scales_have_no_sign(tamper, name):
    full, value = f"{inner(name)}.weight_scale", -1.0
    refused(tamper.tensors(name, lambda tensors: tensors[full].view(-1)[-1:].fill_(value)), full)


@pytest.mark.parametrize("bit", [8, 17, 31])
def test_a_bit_set_after_the_last_zero_point_is_refused(tamper, bit):
    # 33 zero points of 8 bits use 8 bits of the last word.
    full = "model.layers.0.mlp.gate_proj.weight_zero_point"
    mask = 1 << bit if bit < 31 else -(1 << 31)
    refused(tamper.tensors("llama-asym8", lambda tensors: tensors[full][-1:].bitwise_or_(mask)), full)


@pytest.mark.parametrize("name", ["bert-int8", "llama-int8"])
def test_the_code_that_symmetric_int8_leaves_out_is_refused(tamper, name):
    full = f"{inner(name)}.weight"
    refused(tamper.tensors(name, lambda tensors: tensors[full].view(torch.int8)[-1, -1:].fill_(-128)), full)


@pytest.mark.parametrize("bit", [3, 17, 31])
def test_a_bit_set_after_the_last_code_is_refused(tamper, bit):
    # 33 codes of 3 bits use 3 bits of the last word.
    full = "model.layers.0.mlp.down_proj.weight"
    mask = 1 << bit if bit < 31 else -(1 << 31)
    refused(tamper.tensors("llama-3bit", lambda tensors: tensors[full][-1, -1:].bitwise_or_(mask)), full)


@pytest.mark.parametrize("suffix", ["weight_zero_point", "input_scale", "input_zero_point"])
def test_a_tensor_that_the_scheme_does_not_have_is_refused(tamper, suffix):
    full = f"{inner('llama-int8')}.{suffix}"
    refused(tamper.tensors("llama-int8", lambda tensors: tensors.update({full: torch.zeros(1)})), full)


@pytest.mark.parametrize("bias", [None, torch.zeros(127), torch.zeros(128, dtype=torch.int32), torch.zeros(128, 1)])
def test_the_bias_of_a_quantized_linear_is_checked_too(tamper, bias):
    full = f"{inner('bert-int8')}.bias"
    change = {full: bias} if bias is not None else {}
    refused(tamper.tensors("bert-int8", lambda tensors: (tensors.pop(full), tensors.update(change))), full)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bfloat16, torch.float32])
def test_a_weight_stored_in_fp16_is_refused_in_any_other_dtype(tamper, dtype):
    full = f"{inner('bert-fp16')}.weight"
    refused(tamper.tensors("bert-fp16", lambda tensors: tensors.update({full: tensors[full].to(dtype)})), full)


@pytest.mark.parametrize("twin", [torch.zeros(2, 2), torch.zeros(128, 16, dtype=torch.int64)])
@pytest.mark.parametrize("twin_first", [True, False])
def test_a_second_tensor_under_a_name_that_maps_to_the_same_module_is_refused(tamper, twin, twin_first):
    full = inner("bert-int8") + ".weight"
    alias = full.removeprefix("bert.")

    def add(tensors):
        # Transformers takes both names for the module; which one wins depends on how they sort.
        tensors[alias] = tensors[full] if twin_first else twin
        tensors[full] = twin if twin_first else tensors[full]

    with pytest.raises((CheckpointError, RuntimeError)):
        load(tamper.tensors("bert-int8", add))


def test_a_float_weight_under_a_quantized_name_is_refused(tamper):
    full = inner("llama-int8") + ".weight"
    refused(tamper.tensors("llama-int8", lambda tensors: tensors.update({full: torch.zeros(64, 128)})), full)


@pytest.mark.parametrize("name", ["bert-int8", "gpt2-int4", "llama-3bit"])
def test_a_truncated_file_is_refused_at_every_length(tamper, name):
    size = (tamper.intact / name / WEIGHTS).stat().st_size
    lengths = {0, 1, 7, 8, 9, size // 2, size - 1, *(random.Random(0).randrange(size) for _ in range(24))}
    for length in sorted(lengths):
        directory = tamper.bytes(name, WEIGHTS, lambda content, length=length: content[:length])
        refused(directory, WEIGHTS, fix="download or save")


def test_bytes_after_the_end_of_a_file_are_refused(tamper):
    refused(tamper.bytes("llama-int8", WEIGHTS, lambda content: content + b"more"), WEIGHTS)


def test_another_kind_of_file_is_refused(tamper):
    refused(tamper.bytes("llama-int8", WEIGHTS, lambda _: b"\x80\x04K\x01." * 1000), WEIGHTS)


@pytest.mark.parametrize("module", ["model.layers.0.mlp.down_proj", "model.embed_tokens"])
@pytest.mark.parametrize("name", ["llama-int8", "llama-int4"])
def test_values_that_stay_on_disk_are_checked_when_they_are_first_used(tamper, tmp_path, name, module):
    options = {"device_map": {"": "disk"}, "offload_folder": str(tmp_path)}
    assert logits(load(tamper.copy(name), **options)).isfinite().all()
    full = f"{module}.weight_scale"
    model = load(tamper.tensors(name, lambda tensors: tensors[full].view(-1)[-1:].fill_(float("nan"))), **options)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=re.escape(full)):
            logits(model)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sharded") / "llama-int4"
    model = quantize(float_model("llama-int4"), SCHEMES["llama-int4"], progress=False)
    model.save_pretrained(directory, max_shard_size="10KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 2
    return Tamper(directory.parent, tmp_path_factory.mktemp("sharded-damaged"))


def test_a_missing_shard_is_an_error_that_names_the_file(sharded):
    directory = sharded.copy("llama-int4")
    shard = sorted(directory.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises((HfQuantError, OSError), match=re.escape(shard.name)):
        load(directory)


def test_a_truncated_shard_is_refused(sharded):
    directory = sharded.copy("llama-int4")
    shard = sorted(directory.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-9])
    refused(directory, shard.name)


def test_a_shard_of_another_checkpoint_is_refused(sharded):
    directory = sharded.copy("llama-int4")
    first, second = sorted(directory.glob("model-*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    refused(directory, "is missing")


def test_a_shard_whose_tensor_is_repeated_with_other_contents_in_another_is_not_loaded_in_silence(sharded):
    directory = sharded.copy("llama-int4")
    first, second = sorted(directory.glob("model-*.safetensors"))[:2]
    tensors = load_file(second)
    name = next(key for key in load_file(first) if key.endswith(".weight"))
    save_file({**tensors, name: torch.zeros(3, 3, dtype=torch.int32)}, second, {"format": "pt"})
    with pytest.raises(HfQuantError, match=re.escape(name)):
        load(directory)


def test_an_index_that_leaves_tensors_out_is_harmless_or_refused(sharded):
    directory = sharded.copy("llama-int4")
    index = directory / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"] = dict(list(values["weight_map"].items())[:1])
    index.write_text(json.dumps(values))
    refused(directory, "is missing")


def test_a_pickle_is_refused_before_it_is_opened(tamper):
    directory = tamper.copy("llama-int8")
    (directory / WEIGHTS).unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    refused(directory, "pickle", fix="safetensors only")
