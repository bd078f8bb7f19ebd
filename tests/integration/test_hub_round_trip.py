"""Quantized checkpoints through the Hub: pushed by one process, loaded by id in others, refused where they must be.

Three clients of a stand-in of the Hub: the publisher quantizes and pushes, the reader has the plugin and an empty
cache, the outsider never imports the plugin. The claims are made on what they report and on the files of the Hub.
"""

import json
import re
from types import SimpleNamespace

import pytest
import yaml

from tests.hub_client import run_client
from tests.hub_server import HubServer

TOKENS = {"owner-token": "owner", "stranger-token": "stranger"}
ARCHITECTURES = ["bert", "gpt2", "llama"]
PRESETS = ["int8", "int4"]
REPOS = [f"owner/{architecture}-{preset}" for architecture in ARCHITECTURES for preset in PRESETS]

# Comes before every client's own code, after the names of the repositories.
COMMON = '''
import json, pathlib, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

LOGITS = pathlib.Path(__file__).parents[1] / "logits.safetensors"

def auto_class(repo):
    return AutoModelForMaskedLM if "bert" in repo else AutoModelForCausalLM

def logits(model):
    ids = torch.arange(48).remainder(128).reshape(2, 24)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.contiguous()

def outcome(action):
    """What `action` returns, or the error it raises as text, so that one failure does not hide the rest."""
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def gives(expected, repo, **options):
    return torch.equal(expected, logits(auto_class(repo).from_pretrained(repo, **options)))
'''

PUBLISHER = """
import hf_quant
from hf_quant import HfQuantConfig
from huggingface_hub import ModelCard
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
FLOATS = {
    "bert": BertForMaskedLM(BertConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )),
    "gpt2": GPT2LMHeadModel(GPT2Config(
        vocab_size=128, n_embd=64, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )),
    "llama": LlamaForCausalLM(LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2,
    )),
}
for name, model in FLOATS.items():
    model.save_pretrained(name)

expected, report = {}, {}
for repo in REPOS:
    name, preset = repo.removeprefix("owner/").split("-")
    model = auto_class(repo).from_pretrained(name, quantization_config=HfQuantConfig(preset))
    model.push_to_hub(repo)
    expected[repo] = logits(model)
    report[f"{repo} float bytes"] = pathlib.Path(name, "model.safetensors").stat().st_size
    report[repo] = outcome(lambda: gives(expected[repo], repo))

FLOATS["llama"].push_to_hub("owner/float")
straight = AutoModelForCausalLM.from_pretrained("owner/float", quantization_config=HfQuantConfig("int4"))
report["straight from the Hub"] = torch.equal(logits(model), logits(straight))
model.save_pretrained("saved", push_to_hub=True, repo_id="owner/saved")

model.push_to_hub("owner/edited")
edited = ModelCard.load("owner/edited")
edited.text += "\\nWords of its owner.\\n"
edited.data.license = "mit"
edited.push_to_hub("owner/edited")
model.push_to_hub("owner/edited")

model.push_to_hub("owner/private", private=True)
model.push_to_hub("owner/sharded", max_shard_size="30KB")
model.push_to_hub("owner/changing")
other = auto_class(repo).from_pretrained(name, quantization_config=HfQuantConfig("int8"))
other.push_to_hub("owner/changing")
for same in ("owner/saved", "owner/private", "owner/sharded", "earlier"):
    expected[same] = logits(model)
expected["owner/changing"] = logits(other)
save_file({name: tensor.clone() for name, tensor in expected.items()}, LOGITS)
print(json.dumps(report))
"""

READER = """
import hf_quant
from huggingface_hub import HfApi

expected, report = load_file(LOGITS), {}
for repo in [*REPOS, "owner/saved", "owner/private", "owner/sharded", "owner/changing"]:
    report[repo] = outcome(lambda: gives(expected[repo], repo))
first = HfApi().list_repo_commits("owner/changing")[1].commit_id
report["earlier"] = outcome(lambda: gives(expected["earlier"], "owner/changing", revision=first))
print(json.dumps(report))
"""

OUTSIDER = """
report = {repo: outcome(lambda: f"loaded {auto_class(repo).from_pretrained(repo)}") for repo in REPOS}
assert "hf_quant" not in sys.modules
print(json.dumps(report))
"""

STRANGER = """
import hf_quant
print(json.dumps(outcome(lambda: f"loaded {AutoModelForCausalLM.from_pretrained('owner/private')}")))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The stand-in after the publisher ran: `hub`, `published` (its report), and `ask`, which runs another client."""
    root = tmp_path_factory.mktemp("hub")
    with HubServer(root / "blobs", tokens=TOKENS) as hub:

        def ask(code: str, token: str | None, name: str):
            whole = f"REPOS = {REPOS!r}\n{COMMON}\n{code}"
            done = run_client(whole, hub, token=token, home=root / name)
            return json.loads(done.stdout.splitlines()[-1])

        yield SimpleNamespace(hub=hub, ask=ask, published=ask(PUBLISHER, "owner-token", "publisher"))


@pytest.fixture(scope="module")
def read(world):
    """What a fresh process with the plugin saw of every repository."""
    return world.ask(READER, "owner-token", "reader")


def card(world, repo):
    """The metadata and the text of the card on the Hub."""
    readme = world.hub.files(repo)["README.md"].decode()
    _, metadata, text = re.split(r"^---$", readme, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(metadata), text


def loading_blocks(world, repo):
    """The Python blocks of the card that load something."""
    _, text = card(world, repo)
    return [block for block in re.findall(r"```(?:python|py)\n(.*?)```", text, re.DOTALL) if "from_pretrained" in block]


@pytest.mark.parametrize("repo", REPOS)
def test_the_publisher_reloads_its_own_push_by_id_with_the_same_logits(world, repo):
    assert world.published[repo] is True


@pytest.mark.parametrize("repo", REPOS)
def test_a_fresh_process_loads_by_id_with_the_same_logits(read, repo):
    assert read[repo] is True


def test_a_float_model_of_the_hub_is_quantized_like_the_same_model_on_disk(world):
    assert world.published["straight from the Hub"] is True


def test_saving_with_push_to_hub_pushes_the_same_model_and_card(world, read):
    assert read["owner/saved"] is True
    assert "import hf_quant" in card(world, "owner/saved")[1]


def test_a_second_push_keeps_the_owners_words_and_has_one_section_on_quantization(world):
    metadata, text = card(world, "owner/edited")
    assert metadata["license"] == "mit"
    assert "Words of its owner." in text
    assert text.count("import hf_quant") == card(world, "owner/llama-int4")[1].count("import hf_quant")


def test_a_sharded_push_loads_by_id_with_the_same_logits(world, read):
    shards = [path for path in world.hub.files("owner/sharded") if path.endswith(".safetensors")]
    assert len(shards) > 1
    assert read["owner/sharded"] is True


def test_a_second_push_replaces_the_model_and_the_first_stays_loadable_by_its_hash(read):
    assert read["owner/changing"] is True
    assert read["earlier"] is True


@pytest.mark.parametrize("repo", REPOS)
def test_the_pushed_logits_are_those_of_a_quantized_model(world, repo):
    """Guards the claims above: a float model pushed under the name of a quantized one would satisfy them."""
    config = json.loads(world.hub.files(repo)["config.json"])
    assert config["quantization_config"]["quant_method"] == "hf_quant"
    assert len(world.hub.files(repo)["model.safetensors"]) < 0.5 * world.published[f"{repo} float bytes"]


@pytest.mark.parametrize("repo", REPOS)
def test_the_card_says_how_to_load_and_that_the_import_comes_first(world, repo):
    blocks = loading_blocks(world, repo)
    assert blocks
    for block in blocks:
        assert block.index("import hf_quant") < block.index("from_pretrained")
        assert repo in block


@pytest.mark.parametrize("repo", REPOS)
def test_the_card_is_tagged_for_the_library_and_the_method(world, repo):
    metadata, _ = card(world, repo)
    assert metadata["library_name"] == "transformers"
    assert "hf_quant" in {tag.replace("-", "_") for tag in metadata["tags"]}


@pytest.mark.parametrize("repo", REPOS)
def test_the_card_names_no_local_directory(world, repo):
    files = world.hub.files(repo)
    for name in ("README.md", "config.json"):
        assert "/publisher" not in files[name].decode(), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loading_code_of_the_card_runs_as_it_is(world, architecture, tmp_path):
    block = loading_blocks(world, f"owner/{architecture}-int4")[0]
    run_client(block, world.hub, token="owner-token", home=tmp_path)


def test_without_the_plugin_every_repository_raises_rather_than_loading_garbage(world):
    refusals = world.ask(OUTSIDER, "owner-token", "outsider")
    assert refusals.keys() == set(REPOS)
    assert not [seen for seen in refusals.values() if seen.startswith("loaded")]


def test_a_private_push_is_read_by_its_owner_and_by_nobody_else(world, read):
    assert world.hub.repositories["owner/private"].private
    assert read["owner/private"] is True
    assert world.ask(STRANGER, "stranger-token", "stranger").startswith("OSError")
    assert world.ask(STRANGER, None, "anonymous").startswith("OSError")
