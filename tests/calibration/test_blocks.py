import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertModel, DynamicCache, Gemma2Config, Gemma2ForCausalLM

from hf_quant.calibration.blocks import BlockInput, find_blocks, first_inputs, hidden_of, passed_over, run_block
from hf_quant.errors import CalibrationError, UnsupportedModel
from tests.integration.tiny import LAYERS, tiny_model, token_ids

LISTS = {"bert": "bert.encoder.layer", "gpt2": "transformer.h", "llama-gqa": "model.layers"}


def batches(lengths=((16, 9, 12), (14, 14, 5))):
    """Batches of sequences, padded on the right."""
    for index, rows in enumerate(lengths):
        mask = torch.arange(max(rows)) < torch.tensor(rows)[:, None]
        yield {"input_ids": token_ids(len(rows), max(rows), seed=index), "attention_mask": mask.long()}


def gemma(window=4):
    """A model whose blocks are called with masks of their own: sliding attention, then full."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    config = Gemma2Config(
        vocab_size=128, num_attention_heads=4, num_key_value_heads=2, sliding_window=window, pad_token_id=1, **sizes
    )
    assert config.layer_types == ["sliding_attention", "full_attention"]
    return Gemma2ForCausalLM(config).eval()


@torch.no_grad()
def logits_block_by_block(model, given):
    """Logits of each batch, the blocks run one by one, and everything else with them passed over."""
    blocks = model.get_submodule(find_blocks(model))
    entries = list(first_inputs(model, blocks, given))
    for index, block in enumerate(blocks):
        for entry in entries:
            entry.hidden = run_block(block, index, entry)
    found = []
    with passed_over(blocks, entries[0].in_tuples) as result:
        for batch, entry in zip(given, entries, strict=True):
            result[:] = [entry.hidden]
            found.append(model(**batch).logits)
    return found


class Prefixed(nn.Module):
    """A language model that gets keys and values of other tokens in a cache, to which its blocks add their own."""

    def __init__(self):
        super().__init__()
        self.model = tiny_model("llama")
        self.prefix = torch.randn(2, 1, 4, 5, 16, generator=torch.Generator().manual_seed(0))

    def forward(self, input_ids, attention_mask=None):
        cache = DynamicCache()
        for layer in range(self.model.config.num_hidden_layers):
            cache.update(*self.prefix.expand(2, len(input_ids), -1, -1, -1), layer)
        return self.model(input_ids, past_key_values=cache)


def test_blocks_leave_a_cache_that_they_are_given_as_it_was():
    model = Prefixed()
    given = [{"input_ids": token_ids(2, 6)}]
    blocks = model.get_submodule(find_blocks(model))
    for entry in first_inputs(model, blocks, given):
        for index, block in enumerate(blocks):
            assert torch.equal(run_block(block, index, entry), run_block(block, index, entry))
    (found,) = logits_block_by_block(model, given)
    torch.testing.assert_close(found, model(**given[0]).logits)


@pytest.mark.parametrize("name", LISTS)
def test_the_blocks_of_a_model_are_found_by_their_size(name):
    assert find_blocks(tiny_model(name)) == LISTS[name]


def test_a_model_without_equal_blocks_says_what_to_do():
    with pytest.raises(UnsupportedModel, match="quantize it without calibration"):
        find_blocks(nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])))


@pytest.mark.parametrize("name", [*LISTS, "gemma"])
def test_blocks_run_one_by_one_give_what_the_model_gives(name):
    model, given = gemma() if name == "gemma" else tiny_model(name), list(batches())
    for batch, found in zip(given, logits_block_by_block(model, given), strict=True):
        with torch.no_grad():
            expected = model(**batch).logits
        keep = batch["attention_mask"].bool()
        assert torch.equal(found[keep], expected[keep])


def test_masks_that_differ_only_in_a_later_batch_are_told_apart():
    model, given = gemma(window=8), list(batches([(4, 4), (16, 11)]))
    found = logits_block_by_block(model, given)[1]
    keep = given[1]["attention_mask"].bool()
    with torch.no_grad():
        assert torch.equal(found[keep], model(**given[1]).logits[keep])


def test_padding_is_told_from_tokens():
    model = tiny_model("bert")
    padded, full = first_inputs(model, model.bert.encoder.layer, batches([(16, 9), (12, 12)]))
    assert padded.keep.sum(1).tolist() == [16, 9]
    assert full.keep is None


def test_arguments_alike_for_all_blocks_are_kept_once():
    model = tiny_model("llama")
    (entry, _) = first_inputs(model, model.model.layers, batches())
    assert len(entry.arguments) == 1
    for index in range(LAYERS):
        args, kwargs = entry.call(index)
        assert args[0] is entry.hidden and kwargs["past_key_values"] is None


def test_the_cache_is_off_while_inputs_are_taken_and_on_again_after():
    model = tiny_model("llama")
    assert model.config.use_cache
    list(first_inputs(model, model.model.layers, batches()))
    assert model.config.use_cache
    with pytest.raises(ValueError, match="input_ids"):
        list(first_inputs(model, model.model.layers, [{"nothing": torch.ones(1)}]))
    assert model.config.use_cache


def test_blocks_that_are_called_more_than_once_are_refused():
    config = AlbertConfig(
        vocab_size=128, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    model = AlbertModel(config).eval()
    blocks = model.get_submodule(find_blocks(model))
    with pytest.raises(CalibrationError, match="has 1 blocks and calls 3"):
        list(first_inputs(model, blocks, batches()))


class Halves(nn.Module):
    """A block that gives less than it takes, or something else."""

    def __init__(self, as_dict=False):
        super().__init__()
        self.as_dict = as_dict

    def forward(self, hidden_states):
        half = hidden_states[..., ::2]
        return {"half": half} if self.as_dict else half


def test_a_block_that_cannot_be_run_alone_is_named():
    entry = BlockInput(torch.ones(1, 2, 4), [((), {})])
    with pytest.raises(CalibrationError, match=r"block 3 \(Halves\) changes the shape"):
        run_block(Halves(), 3, entry)
    with pytest.raises(CalibrationError, match="returns dict where hidden states"):
        run_block(Halves(as_dict=True), 3, entry)
    with pytest.raises(CalibrationError, match=r"block 1 \(Halves\) cannot be called alone"):
        run_block(Halves(), 1, BlockInput(entry.hidden, [((), {"mask": None})]))


def test_hidden_states_are_the_first_of_what_a_block_returns():
    hidden = torch.ones(1, 2, 4)
    assert hidden_of(hidden) is hidden_of((hidden, None)) is hidden


@pytest.mark.parametrize("in_tuples", [True, False])
def test_blocks_that_were_passed_over_compute_again_even_after_an_error(in_tuples):
    blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    own = blocks[1].forward = lambda input: input + 1  # as accelerate does
    input, other = torch.ones(1, 4), torch.zeros(1, 4)

    def pass_over():
        with passed_over(blocks, in_tuples) as result:
            result[:] = [other]
            for block in blocks:
                assert hidden_of(block(input)) is other
                assert isinstance(block(input), tuple) is in_tuples
            raise KeyError

    with pytest.raises(KeyError):
        pass_over()
    assert "forward" not in vars(blocks[0]) and blocks[1].forward is own
