"""The stand-in of the Hub against the real client: whatever works here must not be blamed on the stand-in elsewhere.

Importing transformers is most of the time of a client, so one client owns a set of repositories and reports on all
of them as JSON, and the claims are made on the report.
"""

import json
from types import SimpleNamespace

import pytest

from tests.hub_client import run_client
from tests.hub_server import HubServer

TOKENS = {"owner-token": "owner", "stranger-token": "stranger"}

OWNER = """
    import json, pathlib
    import torch
    from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download
    from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

    def bert(seed):
        torch.manual_seed(seed)
        return BertModel(BertConfig(
            vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
        ))

    def same(one, other):
        one, other = one.state_dict(), other.state_dict()
        return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    def refusal(action):
        try:
            action()
        except Exception as error:
            answer = getattr(error, "response", None)
            return f"{type(error).__name__} {answer.status_code}" if answer is not None else type(error).__name__
        return "accepted"

    api, report = HfApi(), {}
    first, second = bert(1), bert(2)

    first.push_to_hub("owner/plain")
    report["plain"] = same(first, AutoModel.from_pretrained("owner/plain"))
    report["hidden size"] = AutoConfig.from_pretrained("owner/plain").hidden_size
    report["first"] = api.model_info("owner/plain").sha
    report["pushed again"] = first.push_to_hub("owner/plain").oid
    second.push_to_hub("owner/plain")
    report["second"] = api.model_info("owner/plain").sha
    report["main after second"] = same(second, AutoModel.from_pretrained("owner/plain", revision="main"))
    # An empty cache: this process has downloaded that revision before.
    by_hash = AutoModel.from_pretrained("owner/plain", revision=report["first"], cache_dir="empty")
    report["by first hash"] = same(first, by_hash)
    report["commits"] = [commit.commit_id for commit in api.list_repo_commits("owner/plain")]
    report["listed"] = sorted(api.list_repo_files("owner/plain"))
    report["tags"] = api.model_info("owner/plain").tags
    report["branch"] = refusal(lambda: second.push_to_hub("owner/plain", revision="trial"))
    report["branches"] = [branch.name for branch in api.list_repo_refs("owner/plain").branches]

    first.push_to_hub("owner/sharded", max_shard_size="60KB")
    report["sharded"] = same(first, AutoModel.from_pretrained("owner/sharded"))
    report["shards"] = [p for p in api.list_repo_files("owner/sharded") if p.endswith(".safetensors")]
    report["shapes"] = len(api.get_safetensors_metadata("owner/sharded").weight_map)

    folder = pathlib.Path("folder")
    (folder / "deep").mkdir(parents=True)
    (folder / "vocab.txt").write_text("[PAD]\\n[UNK]\\n[CLS]\\n[SEP]\\n[MASK]\\na\\nb\\n")
    (folder / "deep" / "large.txt").write_bytes(b"line\\n" * (3 << 20))
    (folder / "empty").touch()
    api.create_repo("owner/folder", private=True)
    api.upload_folder(repo_id="owner/folder", folder_path=folder)
    BertTokenizer(str(folder / "vocab.txt")).push_to_hub("owner/folder")
    report["tokens"] = AutoTokenizer.from_pretrained("owner/folder").tokenize("a b a")
    report["top"] = sorted(entry.path for entry in api.list_repo_tree("owner/folder"))
    report["large"] = api.get_paths_info("owner/folder", ["deep/large.txt"])[0].lfs.size
    api.delete_folder("deep", "owner/folder")
    snapshot = pathlib.Path(snapshot_download("owner/folder"))
    report["snapshot"] = sorted(path.name for path in snapshot.rglob("*"))

    card = ModelCard.from_template(ModelCardData(library_name="transformers", tags=["one"], license="mit"))
    card.push_to_hub("owner/plain")
    loaded = ModelCard.load("owner/plain")
    report["card"] = [loaded.text == card.text, loaded.data.to_dict() == card.data.to_dict()]
    report["tags with card"] = api.model_info("owner/plain").tags
    bad = ModelCard("---\\nbase_model: /somewhere/on/a/disk\\n---\\n")
    report["bad card"] = [
        refusal(lambda: bad.push_to_hub("owner/plain")),
        refusal(lambda: api.upload_file(
            path_or_fileobj=str(bad).encode(), path_in_repo="README.md", repo_id="owner/plain"
        )),
    ]

    report["missing repository"] = refusal(lambda: api.model_info("owner/nothing"))
    report["missing model"] = refusal(lambda: AutoModel.from_pretrained("owner/nothing"))
    report["missing file"] = refusal(lambda: api.hf_hub_download("owner/plain", "nothing.txt"))
    report["missing revision"] = refusal(lambda: api.model_info("owner/plain", revision="nothing"))
    report["stale parent"] = refusal(lambda: api.upload_file(
        path_or_fileobj=b"x", path_in_repo="x", repo_id="owner/plain", parent_commit=report["first"]
    ))
    report["not offered"] = refusal(lambda: list(api.list_models()))
    print(json.dumps(report))
"""

# No torch here, so that trying it with several tokens is cheap.
VISITOR = """
    import json
    from huggingface_hub import HfApi

    def outcome(action):
        try:
            action()
        except Exception as error:
            return type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)
        return "done", None

    api = HfApi()
    print(json.dumps({
        "whoami": outcome(api.whoami),
        "read public": outcome(lambda: api.hf_hub_download("owner/plain", "model.safetensors")),
        "read private": outcome(lambda: api.hf_hub_download("owner/folder", "vocab.txt")),
        "info private": outcome(lambda: api.model_info("owner/folder")),
        "write": outcome(lambda: api.upload_file(
            path_or_fileobj=b"x", path_in_repo="x", repo_id="owner/plain"
        )),
        "create": outcome(lambda: api.create_repo("owner/new")),
    }))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The stand-in after the owner's client ran: `hub`, and `report`, what that client saw."""
    root = tmp_path_factory.mktemp("hub")
    with HubServer(root / "blobs", tokens=TOKENS) as hub:
        done = run_client(OWNER, hub, token="owner-token", home=root / "owner")
        yield SimpleNamespace(hub=hub, report=json.loads(done.stdout.splitlines()[-1]), root=root)


def visit(world, token):
    done = run_client(VISITOR, world.hub, token=token, home=world.root / f"visitor-{token}")
    return json.loads(done.stdout.splitlines()[-1])


def test_a_pushed_model_reloads_by_id_with_identical_weights(world):
    assert world.report["plain"]
    assert world.report["hidden size"] == 64
    assert world.report["listed"] == [".gitattributes", "README.md", "config.json", "model.safetensors"]


def test_weights_went_through_lfs_and_came_back_through_a_redirect_and_small_texts_did_not(world):
    seen = {(method, path.split("/")[1], status) for method, path, status in world.hub.requests}
    assert ("PUT", "storage", 200) in seen
    assert ("GET", "storage", 200) in seen
    weights = f"/owner/plain/resolve/{world.report['first']}/model.safetensors"
    assert ("HEAD", weights, 302) in world.hub.requests
    assert ("HEAD", weights.replace("model.safetensors", "config.json"), 200) in world.hub.requests


def test_a_sharded_push_reloads(world):
    assert world.report["sharded"]
    assert len(world.report["shards"]) > 1
    assert world.report["shapes"] > 0


def test_a_second_push_is_a_new_commit_and_the_first_stays_loadable_by_its_hash(world):
    report = world.report
    assert report["first"] != report["second"]
    assert report["main after second"]
    assert report["by first hash"]
    assert report["commits"][:2] == [report["second"], report["first"]]


def test_pushing_the_same_model_again_makes_no_commit(world):
    assert world.report["pushed again"] == world.report["first"]


def test_a_push_to_another_branch_leaves_main_alone(world):
    assert world.report["branch"] == "accepted"
    assert sorted(world.report["branches"]) == ["main", "trial"]


def test_the_tests_see_every_revision_of_the_files(world):
    now = world.hub.files("owner/plain")
    before = world.hub.files("owner/plain", revision=world.report["first"])
    assert now["config.json"] == before["config.json"]
    assert now["model.safetensors"] != before["model.safetensors"]


def test_an_uploaded_folder_keeps_its_tree_and_is_downloaded_whole(world):
    assert "deep" in world.report["top"]
    assert world.report["large"] == 5 * (3 << 20)
    assert {"vocab.txt", "empty"} <= set(world.report["snapshot"])
    assert "large.txt" not in world.report["snapshot"]


def test_a_pushed_tokenizer_reloads_by_id(world):
    assert world.report["tokens"] == ["a", "b", "a"]


def test_a_model_card_makes_the_round_trip_and_shows_in_the_tags(world):
    assert world.report["card"] == [True, True]
    assert {"one", "license:mit", "bert", "safetensors"} <= set(world.report["tags with card"])
    assert "one" not in world.report["tags"]


def test_a_card_the_hub_would_refuse_is_refused(world):
    assert world.report["bad card"] == ["ValueError", "ValueError"]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("missing repository", "RepositoryNotFoundError 404"),
        ("missing model", "OSError"),
        ("missing file", "RemoteEntryNotFoundError 404"),
        ("missing revision", "RevisionNotFoundError 404"),
        ("stale parent", "HfHubHTTPError 412"),
        ("not offered", "HfHubHTTPError 501"),
    ],
)
def test_what_is_not_there_raises_the_clients_own_error(world, what, error):
    assert world.report[what] == error


def test_an_unknown_token_is_refused_even_where_no_token_is_needed(world):
    seen = visit(world, "wrong-token")
    assert seen["whoami"] == ["HfHubHTTPError", 401]
    assert {status for _, status in seen.values()} == {401}


def test_a_stranger_reads_what_is_public_and_nothing_else(world):
    assert visit(world, "stranger-token") == {
        "whoami": ["done", None],
        "read public": ["done", None],
        "read private": ["RepositoryNotFoundError", 404],
        "info private": ["RepositoryNotFoundError", 404],
        "write": ["HfHubHTTPError", 403],
        "create": ["HfHubHTTPError", 403],
    }


def test_an_anonymous_client_cannot_tell_a_private_repository_from_a_missing_one(world):
    seen = visit(world, None)
    assert seen["read public"] == ["done", None]
    assert seen["read private"] == seen["info private"] == ["RepositoryNotFoundError", 401]
    assert seen["write"][0] != "done"
    assert seen["create"][0] != "done"


def test_a_client_that_fails_fails_the_test_and_shows_its_traceback(world):
    with pytest.raises(pytest.fail.Exception, match="ZeroDivisionError"):
        run_client("1 / 0", world.hub, token=None, home=world.root / "failing")
