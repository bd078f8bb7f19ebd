"""Opened LSTM and GRU: what the classes of torch compute, in floats, in codes, and in every way of calling them."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from hf_quant.modules.opened import Opened
from hf_quant.modules.recurrent import open_recurrent
from hf_quant.opening.open import close

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

BATCH, TIME, WIDTH = 3, 5, 12
LENGTHS = {"falling": [5, 3, 1], "mixed": [2, 5, 3], "equal": [4, 4, 4]}
OPTIONS = [
    {},
    {"bidirectional": True},
    {"num_layers": 2, "bias": False},
    {"num_layers": 3, "bidirectional": True, "batch_first": True, "dropout": 0.5},
    {"proj_size": 6, "num_layers": 2, "bidirectional": True},
    {"proj_size": 6, "bias": False, "batch_first": True},
]
CASES = [
    (kind, options)
    for kind in (nn.LSTM, nn.GRU)
    for options in OPTIONS
    if kind is nn.LSTM or "proj_size" not in options
]
recurrent = pytest.mark.parametrize(("kind", "options"), CASES, ids=str)


def made(kind, options):
    torch.manual_seed(0)
    module = kind(WIDTH, 16, **options).eval().requires_grad_(False)
    opened = copy.deepcopy(module)
    open_recurrent(opened)
    assert isinstance(opened, Opened) and isinstance(opened, kind)
    return module, opened


def states(module, batch=BATCH):
    """First states for a call; without a batch where it is None."""
    count = module.num_layers * (2 if module.bidirectional else 1)
    some = () if batch is None else (batch,)
    hidden = torch.randn(count, *some, module.proj_size or module.hidden_size)
    return hidden if module.mode == "GRU" else (hidden, torch.randn(count, *some, module.hidden_size))


def flat(result):
    """All tensors of a result, the data and the order of a packed sequence included."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [each for part in result if part is not None for each in flat(part)]


def assert_same(module, opened, *arguments):
    expected, found = module(*arguments), opened(*arguments)
    assert type(found[0]) is type(expected[0]) and type(found[1]) is type(expected[1])
    pairs = list(zip(flat(found), flat(expected), strict=True))
    assert all(one.shape == other.shape and one.dtype == other.dtype for one, other in pairs)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@recurrent
def test_opened_floats_give_what_torch_gives(kind, options):
    module, opened = made(kind, options)
    input = torch.randn((BATCH, TIME, WIDTH) if module.batch_first else (TIME, BATCH, WIDTH))
    assert_same(module, opened, input)
    assert_same(module, opened, input, states(module))
    assert_same(module, opened, input.transpose(0, 1).contiguous().transpose(0, 1), states(module))
    assert_same(module, opened, torch.randn(TIME, WIDTH))
    assert_same(module, opened, torch.randn(TIME, WIDTH), states(module, None))
    assert_same(module, opened, input[:1, :1])


@recurrent
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_sequences_give_what_torch_gives(kind, options, lengths):
    module, opened = made(kind, options)
    input = torch.randn((BATCH, TIME, WIDTH) if module.batch_first else (TIME, BATCH, WIDTH))
    packed = pack_padded_sequence(input, LENGTHS[lengths], module.batch_first, enforce_sorted=False)
    assert_same(module, opened, packed)
    assert_same(module, opened, packed, states(module))
    padded, found = pad_packed_sequence(opened(packed)[0], module.batch_first)
    assert found.tolist() == LENGTHS[lengths]
    assert torch.equal(padded, pad_packed_sequence(PackedSequence(*opened(packed)[0]), module.batch_first)[0])


@recurrent
def test_batches_without_a_sequence_and_steps_without_a_row_give_what_torch_gives(kind, options):
    module, opened = made(kind, options)
    assert_same(module, opened, torch.randn((0, TIME, WIDTH) if module.batch_first else (TIME, 0, WIDTH)))
    assert_same(module, opened, PackedSequence(torch.randn(2, WIDTH), torch.tensor([2, 0])))
    assert_same(module, opened, PackedSequence(torch.randn(0, WIDTH), torch.tensor([0])))


@pytest.mark.parametrize("sizes", [[], [1, 2], [2, 2], [1, 1]], ids=["none", "growing", "too many", "too few"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences_whose_steps_are_not_their_rows_are_refused(kind, sizes):
    _, opened = made(kind, {})
    rows = torch.randn(3 if sizes else 0, WIDTH)
    with pytest.raises(RuntimeError, match="batch_sizes must descend and add up"):
        opened(PackedSequence(rows, torch.tensor(sizes, dtype=torch.int64)))


@recurrent
def test_gradients_are_those_of_torch(kind, options):
    module, opened = (each.requires_grad_() for each in made(kind, {**options, "dropout": 0.0}))
    input = torch.randn(TIME, TIME, WIDTH)
    for each in (module, opened):
        each(input)[0].square().sum().backward()
    for stack in opened.stacks:
        torch.testing.assert_close(
            opened.part(opened.parts(stack)[0]).grad, getattr(module, stack.name).grad, atol=1e-4, rtol=1e-4
        )


@recurrent
def test_parameters_are_the_very_ones_and_come_back(kind, options):
    module, _ = made(kind, options)
    before, text = dict(module.named_parameters()), repr(module)
    open_recurrent(module)
    assert list(module._parameters) == []
    assert {id(each) for each in module.parameters()} == {id(each) for each in before.values()}
    assert all(getattr(module, name) is parameter for name, parameter in before.items())
    state = module.state_dict()
    assert list(state) == list(before)
    close(module)
    assert type(module) is kind and repr(module) == text
    assert [*module.named_parameters()] == [*before.items()]
    assert module._flat_weights == [*before.values()]
    assert_same(copy.deepcopy(module), module, torch.randn(TIME, BATCH, WIDTH))


@recurrent
def test_it_is_copied_pickled_cast_and_loaded_as_any_module(kind, options):
    module, opened = made(kind, options)
    input = torch.randn(TIME, BATCH, WIDTH)
    expected = opened(input)[0]
    assert torch.equal(copy.deepcopy(opened)(input)[0], expected)
    assert torch.equal(pickle.loads(pickle.dumps(opened))(input)[0], expected)
    other = made(kind, options)[1]
    for parameter in other.parameters():
        parameter.zero_()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(input)[0], expected)
    assert_same(copy.deepcopy(module).double(), copy.deepcopy(opened).double(), input.double())
    module.load_state_dict(other.state_dict())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_calls_that_torch_refuses_are_refused(kind):
    module, opened = made(kind, {})
    hidden = states(module)
    wrong = hidden[:, :2] if kind is nn.GRU else (hidden[0][:, :2], hidden[1])
    calls = [
        (torch.randn(TIME, BATCH, WIDTH + 1),),
        (torch.randn(WIDTH),),
        (torch.randn(0, BATCH, WIDTH),),
        (torch.randn(TIME, BATCH, WIDTH), wrong),
        (torch.randn(TIME, BATCH, WIDTH), states(module, None)),
        (torch.randn(TIME, WIDTH), hidden),
        (torch.randn(TIME, BATCH, WIDTH), hidden[0]),
    ]
    for arguments, each in itertools.product(calls, (module, opened)):
        with pytest.raises((RuntimeError, ValueError, AttributeError, IndexError)):
            each(*arguments)


def test_dropout_lies_between_layers_in_training():
    module, opened = made(nn.GRU, {"num_layers": 2, "dropout": 0.5})
    input = torch.randn(TIME, BATCH, WIDTH)
    calm = opened(input)
    module.train(), opened.train()
    first, second = opened(input), opened(input)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1][0], calm[1][0])
