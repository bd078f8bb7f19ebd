"""Which modules are opened as LSTM and GRU, and that a model is what it was when it is closed again."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from hf_quant.modules.recurrent import OpenedRecurrent
from hf_quant.opening.open import opened
from hf_quant.opening.recurrent import is_recurrent


class OfItsOwn(nn.LSTM):
    """A class that may compute anything."""


def exchanged():
    module = nn.GRU(4, 4)
    module.forward = lambda input: input
    return module


OTHERS = {
    "a plain RNN": lambda: nn.RNN(4, 4),
    "a cell": lambda: nn.LSTMCell(4, 4),
    "a class derived from it": lambda: OfItsOwn(4, 4),
    "a parametrized weight": lambda: parametrizations.weight_norm(nn.LSTM(4, 4), "weight_hh_l0"),
    "a forward of its own": exchanged,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_may_compute_something_else_stays_closed(name):
    model = nn.ModuleList([OTHERS[name]()])
    assert not is_recurrent(model[0])
    with opened(model) as opening:
        assert opening.modules == {}


def test_a_model_is_open_for_as_long_as_it_is_worked_on():
    model = nn.ModuleDict({"first": nn.LSTM(4, 6, bidirectional=True), "second": nn.GRU(12, 4, bias=False)})
    before = dict(model.named_parameters())
    input = torch.randn(3, 2, 4)
    expected = model["second"](model["first"](input)[0])[0]
    with opened(model) as opening:
        assert all(isinstance(module, OpenedRecurrent) for module in model.values())
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        assert names == [f"first.{n}" for n in ("ih_l0", "hh_l0", "ih_l0_reverse", "hh_l0_reverse")] + [
            "second.ih_l0",
            "second.hh_l0",
        ]
        found = model["second"](model["first"](input)[0])[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert opening.keep(["second.hh_l0"]) == ["first"]
    assert type(model["first"]) is nn.LSTM and isinstance(model["second"], OpenedRecurrent)
    assert {id(each) for each in model.parameters()} == {id(each) for each in before.values()}
    assert model.state_dict().keys() == before.keys()
