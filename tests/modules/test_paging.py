import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hf_quant.modules.paging import page_out


def test_contents_survive_in_mapped_and_in_ordinary_memory(tmp_path):
    expected = torch.arange(1 << 18, dtype=torch.int32)
    save_file({"weight": expected}, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        mapped = file.get_tensor("weight")
    for tensor in (mapped, expected.clone(), expected[7:9], expected[:0]):
        before = tensor.clone()
        page_out(tensor)
        assert torch.equal(tensor, before)
