import pytest
import torch
from torch import nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from hf_quant.calibration.collect import Collector
from hf_quant.errors import CalibrationError
from hf_quant.formats.affine import AffineFormat
from hf_quant.formats.rotation import rotate
from hf_quant.observers import OBSERVERS
from hf_quant.opening.open import Opening

WIDTH = 16
KEEP = torch.arange(5) < torch.tensor([5, 3])[:, None]


class Projections(nn.Module):
    """Two linears on one input, one on the first's output, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.out, self.idle = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, hidden):
        query = self.query(hidden)
        self.key(hidden)
        return self.out(input=query)


def collector(module, names=("query", "key", "out"), **options):
    return Collector(module, {name: module.get_submodule(name) for name in names}, **options)


def watch(module, found, inputs, keep=None):
    with found.watching(), torch.no_grad():
        for input in inputs:
            found.next_batch(keep)
            module(input)


def run(module, found, inputs, keep=None):
    watch(module, found, inputs, keep)
    return found.statistics()


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 5, WIDTH, generator=generator) * 3 + 1 for _ in range(3)]


def test_statistics_are_those_of_the_tokens_that_count():
    module, given = Projections(), inputs()
    found = run(module, collector(module, hessian=True), given, KEEP)["query"]
    rows = torch.cat([input[KEEP] for input in given]).double()
    assert found.count == len(rows) == 3 * 8
    torch.testing.assert_close(found.mean.double(), rows.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.mean_abs.double(), rows.abs().mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.hessian.double(), rows.T @ rows / len(rows), atol=1e-5, rtol=1e-5)
    assert torch.equal(found.max_abs.double(), rows.abs().amax(0))


def test_tokens_that_the_model_has_flattened_count_alike():
    module, given = Projections(), inputs()
    observed = [
        collector(module, ("query",), hessian=True, observers={"query": OBSERVERS["minmax"](AffineFormat(8))})
        for _ in range(2)
    ]
    whole = run(module, observed[0], given, KEEP)["query"]
    flat = run(module, observed[1], [input.flatten(0, 1) for input in given], KEEP)["query"]
    assert flat.count == whole.count == 3 * 8
    assert all(torch.equal(getattr(flat, name), getattr(whole, name)) for name in ("mean", "max_abs", "hessian"))
    assert observed[0].observers["query"].range() == observed[1].observers["query"].range()


def test_rows_that_are_no_tokens_all_count():
    module, pooled = Projections(), torch.ones(2, WIDTH)
    assert run(module, collector(module, ("query",)), [pooled], KEEP)["query"].count == 2


def test_an_input_without_dimensions_of_tokens_is_one_row():
    module, row = Projections(), torch.randn(WIDTH)
    found = collector(module, observers={"query": OBSERVERS["minmax"](AffineFormat(8, symmetric=False))})
    watch(module, found, [row])
    statistics = found.statistics()["query"]
    assert statistics.count == 1
    assert torch.equal(statistics.mean, row)


def test_linears_on_one_tensor_share_their_sums():
    module = Projections()
    found = run(module, collector(module, hessian=True), inputs())
    assert found["query"] is found["key"] and found["out"] is not found["query"]


def test_an_input_that_was_changed_in_between_is_another_one():
    module = Projections()

    def forward(hidden):
        module.query(hidden)
        hidden.add_(1)
        module.key(hidden)

    module.forward = forward
    found = run(module, collector(module, ("query", "key")), inputs())
    torch.testing.assert_close(found["key"].mean, found["query"].mean + 1)


def test_without_a_hessian_none_is_summed_up():
    module = Projections()
    assert run(module, collector(module), inputs())["query"].hessian is None


def test_nan_in_padding_is_nothing_and_elsewhere_names_the_module():
    module, given = Projections(), inputs()
    given[1][1, 4] = torch.nan
    assert run(module, collector(module), given, KEEP)["query"].mean.isfinite().all()
    given[1][1, 0] = torch.inf
    with pytest.raises(CalibrationError, match=r"layers\.3\.query gets NaN or infinite inputs"):
        run(module, collector(module, prefix="layers.3."), given, KEEP)


def test_a_module_that_no_token_reaches_is_named():
    module = Projections()
    with pytest.raises(CalibrationError, match=r"layers\.3\.idle was never called"):
        run(module, collector(module, ("query", "idle"), prefix="layers.3."), inputs())
    with pytest.raises(CalibrationError, match="query was never called with a token that counts"):
        run(module, collector(module), inputs(), torch.zeros(2, 5, dtype=torch.bool))


@pytest.mark.parametrize("rotation", [None, 16])
def test_observers_see_what_a_kernel_quantizes(rotation):
    module, given = Projections(), inputs()
    observers = {name: OBSERVERS["minmax"](AffineFormat(8)) for name in ("query", "key")}
    rotations = {} if rotation is None else dict.fromkeys(observers, rotation)
    run(module, collector(module, observers=observers, rotations=rotations), given, KEEP)
    seen = torch.cat([(input if rotation is None else rotate(input, rotation))[KEEP] for input in given])
    for observer in observers.values():
        assert [float(end) for end in observer.range()] == [float(seen.min()), float(seen.max())]


def test_an_observer_of_nan_names_the_module():
    module, given = Projections(), inputs()
    given[0][0, 0, 0] = torch.nan
    found = collector(module, observers={"key": OBSERVERS["minmax"](AffineFormat(8))}, prefix="layers.3.")
    with pytest.raises(CalibrationError, match=r"layers\.3\.key: 1 of 10 tokens hold NaN"):
        run(module, found, given)


def test_nothing_counts_outside_the_watch():
    module = Projections()
    found = collector(module)
    watch(module, found, inputs())
    module(inputs()[0])
    assert found.statistics()["query"].count == 30


class Flattened(Projections):
    """Looks at tokens in a row, as OPT does."""

    def forward(self, hidden):
        return super().forward(hidden.reshape(-1, WIDTH)).view(hidden.shape)


def test_padding_does_not_count_where_tokens_are_in_a_row():
    given = inputs()
    module = Flattened()
    observers = {"query": OBSERVERS["minmax"](AffineFormat(8))}
    found = run(module, collector(module, hessian=True, observers=observers), given, KEEP)["query"]
    rows = torch.cat([input[KEEP] for input in given])
    assert found.count == len(rows) and torch.equal(found.max_abs, rows.abs().amax(0))
    assert float(observers["query"].range()[1]) == float(rows.max())


class Routed(nn.Module):
    """Experts, of which each token goes to the two that `index` says."""

    def __init__(self, index):
        super().__init__()
        config = MixtralConfig(hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_local_experts=4)
        self.experts = MixtralExperts(config)
        for parameter in self.experts.parameters():
            nn.init.normal_(parameter)
        self.index = index

    def forward(self, hidden):
        rows = hidden.reshape(-1, WIDTH)
        return self.experts(rows, self.index, torch.ones(self.index.shape)).view(hidden.shape)


def routed(*, of_padding=3):
    """Opened experts, no token of which goes to the last but those of padding."""
    index = torch.tensor([[token % 3, (token + 1) % 3] for token in range(10)])
    index[~KEEP.flatten()] = torch.tensor([0, of_padding])
    module = Routed(index)
    Opening(module)
    return module


def expert_names(module, part="gate_proj"):
    return [f"experts.{expert}.{part}" for expert in range(module.experts.experts)]


def test_experts_count_the_tokens_that_are_sent_to_them_and_no_padding():
    module, given = routed(), inputs()
    names = expert_names(module)
    found = run(module, collector(module, names, hessian=True), given, KEEP)
    assert names[3] not in found
    for expert, name in enumerate(names[:3]):
        sent = (module.index == expert).any(-1) & KEEP.flatten()
        rows = torch.cat([input.flatten(0, 1)[sent] for input in given]).double()
        assert found[name].count == len(rows)
        assert torch.equal(found[name].max_abs.double(), rows.abs().amax(0))
        torch.testing.assert_close(found[name].hessian.double(), rows.T @ rows / len(rows), atol=1e-4, rtol=1e-5)


def test_a_layer_of_which_no_expert_gets_a_token_is_an_error():
    module = routed()
    with pytest.raises(CalibrationError, match=r"experts was never called with a token that counts"):
        run(module, collector(module, expert_names(module)), inputs(), torch.zeros(2, 5, dtype=torch.bool))


def test_rows_of_experts_that_are_not_the_tokens_of_the_mask_are_refused():
    module = routed()
    with pytest.raises(CalibrationError, match="nothing tells which of them are padding"):
        run(module, collector(module, expert_names(module)), inputs(), KEEP[:1])


def test_watching_changes_nothing_but_padding():
    module, given = routed(), inputs()[0]
    with torch.no_grad():
        expected = module(given)
        found = collector(module, expert_names(module))
        with found.watching():
            found.next_batch(KEEP)
            seen = module(given)
        assert torch.equal(seen[KEEP], expected[KEEP]) and not torch.equal(seen, expected)
        assert torch.equal(module(given), expected)
