"""What every measure of sensitivity promises."""

import copy
import signal

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from hf_quant.config.presets import PRESETS
from hf_quant.errors import CalibrationError, ConfigError, SaveError, WeightError
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity import MEASURES, kept_sums
from hf_quant.planner.sensitivity.analysis import analyse
from hf_quant.planner.sensitivity.sequences import sequences_of
from tests.integration.tiny import tiny_model, token_ids

NAMES = tuple(MEASURES)
ALL = tuple(SCHEMES.values())
THREE = (SCHEMES["3 bits"],)
STATIC = PRESETS["int8-static"].linear


def batches(rows=2, seed=0):
    return [{"input_ids": token_ids(rows=rows, seed=seed)}]


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: jobs in the background are started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def planted():
    """A Llama whose second down_proj has an outlier: the grid of its groups gets coarse."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:, 5] *= 30
    return model


def measured(measure, model=None, schemes=ALL, data=None, **options):
    model = tiny_model("llama-gqa") if model is None else model
    return analyse(model, data or batches(), schemes, measure, progress=False, **options)


@pytest.mark.parametrize("measure", NAMES)
def test_fewer_bits_lose_more_and_a_planted_outlier_most(measure):
    table = measured(measure, planted(), tuple(SCHEMES[f"{bits} bits"] for bits in (2, 4, 8)))
    assert table.measure == measure and not any(None in row for row in table.losses)
    sizes = [sum(abs(row[column]) for row in table.losses) for column in range(3)]
    assert sizes == sorted(sizes, reverse=True)
    if measure in ("hessian", "loss"):
        return  # away from a minimum, as random weights are, a loss may fall and curve downwards
    down = {name: row[1] for name, row in zip(table.modules, table.losses, strict=True) if "down_proj" in name}
    assert abs(down["model.layers.1.mlp.down_proj"]) > 3 * abs(down["model.layers.0.mlp.down_proj"])


@pytest.mark.parametrize("measure", NAMES)
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_every_family_is_measured_and_left_as_it_was(measure, name):
    from transformers import BertForSequenceClassification, GPT2LMHeadModel

    model = tiny_model(name, {"bert": BertForSequenceClassification, "gpt2": GPT2LMHeadModel}[name]).train()
    before = copy.deepcopy(model.state_dict())
    data = [{**batches()[0], "labels": torch.tensor([0, 1])}] if name == "bert" else batches()
    table = measured(measure, model, THREE, data)
    assert sum(abs(row[0]) for row in table.losses) > 0
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("measure", NAMES)
def test_an_interrupted_analysis_goes_on_and_ends_with_the_same_numbers(measure, tmp_path, monkeypatch, interruptible):
    whole = measured(measure, schemes=THREE)
    kind, calls = MEASURES[measure], []
    original = kind.add

    def interrupted(self, row, part):
        calls.append(part)
        if len(calls) == self.parts:  # of the first sequence
            signal.raise_signal(signal.SIGINT)
        original(self, row, part)

    monkeypatch.setattr(kind, "add", interrupted)
    file = tmp_path / "losses.json"
    with pytest.raises(KeyboardInterrupt):
        measured(measure, schemes=THREE, file=file, fingerprint="one")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not file.exists() and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(kind, "add", lambda self, row, part: (calls.append(part), original(self, row, part)))
    begun = len(calls)
    resumed = measured(measure, schemes=THREE, file=file, fingerprint="one")
    assert resumed.losses == whole.losses and [path.name for path in tmp_path.iterdir()] == ["losses.json"]
    assert len(calls) == 2 * begun  # the second sequence and no part of the first
    assert measured(measure, schemes=THREE, file=file, fingerprint="one") == resumed
    with pytest.raises(ConfigError, match="other data"):
        measured(measure, schemes=THREE, file=file, fingerprint="two")


@pytest.mark.parametrize("measure", NAMES)
def test_an_analysis_that_breaks_off_within_a_part_counts_nothing_of_it_twice(measure, tmp_path, monkeypatch):
    whole, file = measured(measure, schemes=THREE), tmp_path / "losses.json"
    monkeypatch.setattr(kept_sums, "_SECONDS", 0.0)  # progress is written after each part
    monkeypatch.setattr(kept_sums, "_SHARE", 0.0)
    kind, calls = MEASURES[measure], []
    original = kind.add

    def breaks_off(self, row, part):
        original(self, row, part)
        calls.append(part)
        if len(calls) == self.parts + 1:  # in the second sequence, when sums have changed
            raise MemoryError

    monkeypatch.setattr(kind, "add", breaks_off)
    with pytest.raises(MemoryError):
        measured(measure, schemes=THREE, file=file, fingerprint="one")
    assert measured(measure, schemes=THREE, file=file, fingerprint="one").losses == whole.losses


def test_weights_that_are_not_numbers_are_named_before_any_work():
    model = tiny_model("llama-gqa")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[2, 3] = torch.nan
    with pytest.raises(WeightError, match=r"model\.layers\.1\.mlp\.down_proj\.weight holds NaN"):
        measured("fisher", model, THREE)


def test_a_file_of_another_measure_or_of_other_schemes_is_not_taken(tmp_path):
    file = tmp_path / "losses.json"
    measured("fisher", schemes=THREE, file=file)
    for measure, schemes in (("kl", THREE), ("fisher", ALL[:2])):
        with pytest.raises(ConfigError, match="has losses by fisher"):
            measured(measure, schemes=schemes, file=file)


def test_progress_of_another_model_or_in_a_broken_file_is_not_gone_on_from(tmp_path, monkeypatch, interruptible):
    whole, file = measured("fisher", schemes=THREE), tmp_path / "losses.json"
    original = MEASURES["fisher"].add

    def once(self, row, part):
        original(self, row, part)
        signal.raise_signal(signal.SIGINT)

    for spoil in (lambda kept: None, lambda kept: kept.write_bytes(b"broken")):
        monkeypatch.setattr(MEASURES["fisher"], "add", once)
        with pytest.raises(KeyboardInterrupt):
            measured("fisher", schemes=THREE, file=file, fingerprint="another")
        (kept,) = tmp_path.iterdir()
        spoil(kept)
        monkeypatch.setattr(MEASURES["fisher"], "add", original)
        assert measured("fisher", schemes=THREE, file=file, fingerprint="one").losses == whole.losses
        file.unlink()


def test_progress_that_cannot_be_kept_is_told_in_words(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kept_sums, "_SECONDS", 0.0)
    with pytest.raises(SaveError, match="cannot keep the progress"):
        measured("fisher", schemes=THREE, file=tmp_path / "file" / "losses.json")


@pytest.mark.parametrize("measure", ["kl", "output-error"])
def test_some_measures_need_no_labels(measure):
    from transformers import BertForSequenceClassification

    model = tiny_model("bert", BertForSequenceClassification)
    assert measured(measure, model, THREE).loss("classifier", *THREE) > 0


@pytest.mark.parametrize("measure", ["fisher", "hessian", "loss"])
def test_others_say_which_do_not(measure):
    from transformers import BertForSequenceClassification

    with pytest.raises(CalibrationError, match="take the measure kl or output-error"):
        measured(measure, tiny_model("bert", BertForSequenceClassification))


@pytest.mark.parametrize("measure", NAMES)
def test_nan_is_found(measure):
    from hf_quant.errors import HfQuantError

    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(HfQuantError, match=r"NaN|up_proj"):
        measured(measure, model, THREE)
    with pytest.raises(CalibrationError, match="no data"):
        analyse(tiny_model("llama"), [], ALL, measure, progress=False)


@pytest.mark.parametrize("measure", NAMES)
@pytest.mark.parametrize("name", ["llama", "opt"])
def test_padding_does_not_count_flattened_or_not(measure, name):
    heads = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    opt = OPTConfig(vocab_size=128, ffn_dim=64, word_embed_proj_dim=64, do_layer_norm_before=True, **heads)
    torch.manual_seed(0)
    model = tiny_model(name) if name == "llama" else OPTForCausalLM(opt).eval()  # OPT flattens before its MLP
    ids = token_ids(rows=1)
    padded = {"input_ids": torch.cat([ids, torch.full((1, 16), 0)], 1), "attention_mask": torch.ones(1, 32).long()}
    padded["attention_mask"][:, 16:] = 0
    # Signs are drawn by the sum of the ids, for a shape: without curvature, changes of inputs are left.
    works = [MEASURES[measure](model, (SCHEMES["4 bits"], STATIC)) for _ in range(2)]
    for work, batch in zip(works, ({"input_ids": ids}, padded), strict=True):
        with work.running():
            for row in sequences_of([batch], model, work.labelled):
                for part in range(work.parts):
                    work.add(row, part)
    if measure == "hessian":
        torch.testing.assert_close(*(work.sums["changes"] for work in works), rtol=1e-3, atol=1e-6)
    else:
        torch.testing.assert_close(*(torch.tensor(work.losses(1)) for work in works), rtol=2e-2, atol=1e-5)
