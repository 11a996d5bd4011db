"""The stock clients, unmodified and in processes of their own, take the test server for a Hub."""

import inspect
import json
from textwrap import dedent

import pytest
from fresh import Fresh
from hub_server import HubServer

MODEL = "bthub/tiny"
README = "---\nlicense: cc-by-nc-sa-4.0\ntags: [medical]\npipeline_tag: image-classification\n---\n# Tiny\n"


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def client(hub, fresh: Fresh, tmp_path):
    """Runs a function of this module in a fresh process with HF_ENDPOINT at the server; gives what it returns.

    The function imports what it needs itself. What isn't JSON comes back as text, and an exception as its class's name.
    """

    def run(function, *arguments, token=None, **environment):
        code = f"import json, sys\n{dedent(inspect.getsource(outcome))}\n{dedent(inspect.getsource(function))}\n"
        code += f"print(json.dumps({function.__name__}(*json.loads(sys.argv[1])), default=str))"
        done = fresh.run(
            code,
            json.dumps(arguments, default=str),
            folder=tmp_path,
            environment=hub.environment(tmp_path / "cache", token) | environment,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def outcome(function, *arguments, **options):
    """What a call gives, or the class and status of what it raises."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return f"{type(error).__name__} {status}" if status else type(error).__name__


@pytest.fixture
def folder(tmp_path):
    """A small folder to upload: two plain files, one that is large by its name and one by its size."""
    folder = tmp_path / "folder"
    (folder / "predictions").mkdir(parents=True)
    (folder / "README.md").write_text(README)
    (folder / "predictions" / "test.csv").write_text("id,score\n1,0.5\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 16)
    (folder / "large.data").write_bytes(b"\1" * (10 * 2**20 + 1))
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- writing


def upload_and_change(repo_id, folder):
    from pathlib import Path

    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi

    api = HfApi()
    urls = [str(api.create_repo(repo_id, exist_ok=True)) for _ in range(2)]
    again = outcome(api.create_repo, repo_id)
    commits = [api.upload_folder(repo_id=repo_id, folder_path=folder).oid for _ in range(2)]
    (Path(folder) / "predictions" / "test.csv").write_text("id,score\n1,0.75\n")
    commits.append(api.upload_folder(repo_id=repo_id, folder_path=folder).oid)
    operations = [
        CommitOperationDelete("predictions/"),
        CommitOperationDelete("large.data"),
        CommitOperationCopy("model.safetensors", "copies/model.safetensors"),
        CommitOperationCopy("README.md", "copies/README.md"),
    ]
    late = outcome(api.create_commit, repo_id, operations, commit_message="Tidy", parent_commit=commits[0])
    missing = outcome(api.delete_file, "missing.txt", repo_id)
    half = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("missing.txt")]
    half = outcome(api.create_commit, repo_id, half, commit_message="Half of it can't be done")
    lost = outcome(api.create_commit, repo_id, operations[:1], commit_message="Nowhere", revision="nowhere")
    commits.append(api.create_commit(repo_id, operations, commit_message="Tidy", parent_commit=commits[2]).oid)
    return {"urls": urls, "again": again, "commits": commits, "refused": [late, missing, half, lost]}


def test_upload(hub, client, folder):
    result = client(upload_and_change, MODEL, folder, token=hub.write_token)
    assert result["urls"] == [f"{hub.url}/{MODEL}"] * 2 and result["again"] == "HfHubHTTPError 409"
    first, second, third, fourth = result["commits"]
    assert first == second, "a folder that hasn't changed makes no commit"
    assert [commit.oid for commit in hub.commits("model", MODEL)][:-1] == [fourth, third, first]
    # 412: the parent isn't the last commit any more. Nothing of a refused commit is done.
    assert result["refused"] == [
        "HfHubHTTPError 412",
        "RemoteEntryNotFoundError 404",
        "RemoteEntryNotFoundError 404",
        "RevisionNotFoundError 404",
    ]
    attributes = hub.files("model", MODEL)[".gitattributes"]
    assert hub.files("model", MODEL, third) == content(folder) | {".gitattributes": attributes}
    kept = {path: data for path, data in content(folder).items() if path in ("README.md", "model.safetensors")}
    copies = {f"copies/{path}": data for path, data in kept.items()}
    assert hub.files("model", MODEL) == kept | copies | {".gitattributes": attributes}
    large = [path for path, file in hub.repos["model", MODEL].at(third).files.items() if file.sha256]
    assert sorted(large) == ["large.data", "model.safetensors"]
    assert hub.count("PUT", "^/lfs/") == 2, "large files are uploaded once"


def validate(cards):
    import warnings

    from huggingface_hub import HfApi

    def check(content, repo_type):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            HfApi()._validate_yaml(content, repo_type=repo_type)
        return "warning" if caught else "valid"

    return [outcome(check, *card) for card in cards]


def test_cards_are_validated(hub, client):
    space = "---\nsdk: gradio\nshort_description: {}\n---\n"
    result = {"task": {"type": "t"}, "dataset": {"name": "d", "type": "d"}, "metrics": [{"type": "m", "value": 1}]}
    index = "---\nmodel-index: {}\n---\n"
    cards = {
        (README, "model"): "valid",
        ("# No metadata", "model"): "warning",
        ("---\nlicense: mine\n---\n", "dataset"): "ValueError",
        ("---\nlicense: [unclosed\n---\n", "model"): "ValueError",
        ("---\n- a list\n---\n", "model"): "ValueError",
        (space.format("short"), "space"): "valid",
        (space.format("long" * 16), "space"): "ValueError",
        (space.replace("gradio", "flask").format("short"), "space"): "ValueError",
        (index.format(json.dumps([{"name": "n", "results": [result]}])), "model"): "valid",
        (index.format(json.dumps([{"name": "n", "results": [result | {"dataset": {}}]}])), "model"): "ValueError",
    }
    assert client(validate, list(cards)) == list(cards.values())


def space_and_settings():
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    for sdk in ("gradio", "docker", "static"):
        api.create_repo(f"bthub/{sdk}", repo_type="space", space_sdk=sdk, private=True)
    files = {"app.py": b"x = 1\n", ".gitignore": b"# not these\n*.log\nruns/\n", "a.log": b"a", "runs/a.txt": b"a"}
    files = [CommitOperationAdd(path, data) for path, data in files.items()]
    api.create_commit("bthub/gradio", files, commit_message="Add the app", repo_type="space")
    api.update_repo_settings("bthub/gradio", repo_type="space", private=False)
    api.delete_repo("bthub/static", repo_type="space")
    spaces = {space.id: (space.private, space.sdk) for space in api.list_spaces(author="bthub")}
    return spaces, api.space_info("bthub/gradio").card_data.to_dict()


def test_spaces(hub, client):
    spaces, card = client(space_and_settings, token=hub.write_token)
    assert spaces == {"bthub/gradio": [False, "gradio"], "bthub/docker": [True, "docker"]}
    assert card == {"title": "gradio", "sdk": "gradio"}
    assert hub.files("space", "bthub/gradio").keys() == {".gitattributes", ".gitignore", "README.md", "app.py"}
    assert [commit.title for commit in hub.commits("space", "bthub/gradio")] == ["Add the app", "initial commit"]


# --- reading


def read(repo_id):
    from pathlib import Path

    from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download

    api = HfApi()
    first = api.list_repo_commits(repo_id)[1].commit_id
    api.create_tag(repo_id, tag="v1", revision=first)
    api.create_branch(repo_id, branch="try/it", revision="v1")
    api.create_branch(repo_id, branch="try/it", exist_ok=True)
    refs = api.list_repo_refs(repo_id)
    info = api.model_info(repo_id, files_metadata=True)
    tree = list(api.list_repo_tree(repo_id, recursive=True, expand=True))
    files = HfFileSystem()
    with files.open(f"{repo_id}@v1/a/model.safetensors") as file:
        file.seek(3)
        part = file.read(2).hex()
    return {
        "refs": [{ref.name: ref.target_commit == first for ref in each} for each in (refs.branches, refs.tags)],
        "sizes": {each.rfilename: (each.size, each.lfs and each.lfs.size) for each in info.siblings},
        "tags": info.tags,
        "expanded": vars(api.model_info(repo_id, expand=["sha"]))["siblings"],
        "folders": [each.path for each in tree if hasattr(each, "tree_id")],
        "last": {each.path: each.last_commit.oid == first for each in tree if hasattr(each, "blob_id")},
        "paths": [each.path for each in api.get_paths_info(repo_id, ["a", "README.md", "missing"])],
        "glob": [files.glob(f"{repo_id}/**/*.safetensors"), part],
        "models": [
            [each.id for each in api.list_models(**wanted)]
            for wanted in ({"author": "bthub"}, {"author": "nobody"}, {"filter": "medical"}, {"filter": "legal"})
        ],
        "exists": [api.file_exists(repo_id, "README.md"), api.revision_exists(repo_id, "v2"), api.repo_exists("a/b")],
        "main": Path(snapshot_download(repo_id), "README.md").read_text(),
        "v1": Path(snapshot_download(repo_id, revision="v1"), "README.md").read_text(),
        "branch": Path(hf_hub_download(repo_id, "a/model.safetensors", revision="try/it")).read_bytes().hex(),
        "no revision": outcome(snapshot_download, repo_id, revision="v2"),
        "no file": outcome(hf_hub_download, repo_id, "missing.txt"),
        "no repo": [outcome(snapshot_download, "bthub/missing"), outcome(hf_hub_download, "bthub/missing", "x")],
    }


def read_offline(repo_id):
    from pathlib import Path

    from huggingface_hub import hf_hub_download, snapshot_download

    return {
        "main": Path(snapshot_download(repo_id), "README.md").read_text(),
        "v1": Path(snapshot_download(repo_id, revision="v1"), "README.md").read_text(),
        "no file": outcome(hf_hub_download, repo_id, "missing.txt"),
    }


def test_reading(hub, client):
    weights = bytes(range(8))
    hub.add("model", MODEL, {"README.md": README.encode(), "a/model.safetensors": weights})
    hub.add("model", MODEL, {"README.md": README.replace("Tiny", "Second").encode()})
    result = client(read, MODEL, token=hub.write_token)
    assert result["refs"] == [{"main": False, "try/it": True}, {"v1": True}]
    sizes = {path: len(data) for path, data in hub.files("model", MODEL).items()}
    assert result["sizes"] == {path: [size, 8 if path.startswith("a/") else None] for path, size in sizes.items()}
    assert set(result["tags"]) == {"medical", "image-classification", "license:cc-by-nc-sa-4.0"}
    assert result["expanded"] is None
    assert result["folders"] == ["a"]
    assert result["last"] == {".gitattributes": False, "README.md": False, "a/model.safetensors": True}
    assert result["paths"] == ["a", "README.md"]
    assert result["glob"] == [[f"{MODEL}/a/model.safetensors"], "0304"]
    assert result["models"] == [[MODEL], [], [MODEL], []] and result["exists"] == [True, False, False]
    assert "# Second" in result["main"] and "# Tiny" in result["v1"] and result["branch"] == weights.hex()
    assert result["no revision"] == "RevisionNotFoundError 404" and result["no file"] == "RemoteEntryNotFoundError 404"
    assert result["no repo"] == ["RepositoryNotFoundError 404"] * 2

    before = len(hub.requests)
    offline = client(read_offline, MODEL, HF_HUB_OFFLINE="1")
    assert offline == {key: result[key] for key in ("main", "v1")} | {"no file": "LocalEntryNotFoundError"}
    assert len(hub.requests) == before


def load_data(repo_id):
    from datasets import get_dataset_config_names, load_dataset

    streamed = load_dataset(repo_id, "second", split="test", streaming=True)
    return {
        "configs": get_dataset_config_names(repo_id),
        "whole": {name: split["x"][:] for name, split in load_dataset(repo_id, "first").items()},
        "streamed": [row["x"] for row in streamed],
        "missing": outcome(load_dataset, "bthub/missing"),
    }


def test_datasets(hub, client, tmp_path):
    from datasets import Dataset

    card, files = "---\nconfigs:\n", {}
    for number, config in enumerate(("first", "second")):
        card += f"- config_name: {config}\n  data_files:\n"
        for split in ("train", "test"):
            path = f"{config}/{split}.parquet"
            card += f"  - split: {split}\n    path: {path}\n"
            Dataset.from_dict({"x": [number, len(split)]}).to_parquet(tmp_path / "x.parquet")
            files[path] = (tmp_path / "x.parquet").read_bytes()
    hub.add("dataset", "bthub/data", files | {"README.md": f"{card}---\n".encode()}, private=True)
    assert client(load_data, "bthub/data", token=hub.read_token) == {
        "configs": ["first", "second"],
        "whole": {"train": [0, 5], "test": [0, 4]},
        "streamed": [1, 4],
        "missing": "DatasetNotFoundError",
    }


def load_model(repo_id):
    import timm
    import torch
    from PIL import Image
    from transformers import pipeline

    picture = Image.new("RGB", (64, 64), "gray")
    answers = pipeline("image-classification", model=repo_id)(picture)
    model = timm.create_model(f"hf-hub:{repo_id}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    with torch.inference_mode():
        scores = model(transform(picture)[None]).softmax(1)[0].tolist()
    return {answer["label"]: answer["score"] for answer in answers}, scores


@pytest.mark.slow  # test_loading.py does it with the shipped detector
def test_timm_and_transformers(hub, client, tiny_runs):
    hub.add("model", MODEL, content(tiny_runs[0]))
    answers, scores = client(load_model, MODEL)
    assert [answers["no_tumor"], answers["tumor"]] == pytest.approx(scores, abs=1e-5)


# --- who may do what


def try_all(private):
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi()
    upload = {"path_or_fileobj": b"new", "path_in_repo": "new.txt"}
    return {
        "me": outcome(lambda: api.whoami()["auth"]["accessToken"]["role"]),
        "read public": outcome(lambda: api.model_info("bthub/public").id),
        "read private": outcome(lambda: api.model_info(private).id),
        "download private": outcome(lambda: bool(snapshot_download(private))),
        "list": outcome(lambda: len(list(api.list_models(author="bthub")))),
        "create": outcome(lambda: bool(api.create_repo("bthub/new"))),
        "create elsewhere": outcome(lambda: bool(api.create_repo("somebody/new"))),
        "create existing": outcome(lambda: bool(api.create_repo("bthub/public", exist_ok=True))),
        "commit": outcome(lambda: bool(api.upload_file(repo_id="bthub/public", **upload))),
    }


WHO = {
    "write": dict.fromkeys(["read public", "read private", "download private", "create", "create existing", "commit"])
    | {"me": "write", "list": 2, "create elsewhere": "HfHubHTTPError 403"},
    "read": {"me": "read", "list": 2} | dict.fromkeys(["create", "create elsewhere", "commit"], "HfHubHTTPError 403"),
    "stranger": {"me": "write", "list": 1}
    | dict.fromkeys(["read private", "download private"], "RepositoryNotFoundError 404")
    | dict.fromkeys(["create", "create elsewhere", "commit"], "HfHubHTTPError 403"),
    "expired": dict.fromkeys(
        ["me", "read public", "read private", "download private", "list", "create", "create elsewhere"]
        + ["create existing", "commit"],
        "HfHubHTTPError 401",
    ),
    "nobody": {"me": "LocalTokenNotFoundError", "list": 1}
    | dict.fromkeys(["read private", "download private"], "RepositoryNotFoundError 401")
    | dict.fromkeys(["create", "create elsewhere"], "HfHubHTTPError 401")
    | {"commit": "RepositoryNotFoundError 401"},
}


@pytest.mark.parametrize("who", WHO)
def test_tokens(hub, client, who):
    hub.add("model", "bthub/public", {"config.json": b"{}"})
    hub.add("model", "bthub/private", {"config.json": b"{}"}, private=True)
    result = client(try_all, "bthub/private", token=getattr(hub, f"{who}_token", None))
    worked = {"read public": "bthub/public", "read private": "bthub/private"}
    expected = {name: WHO[who].get(name) or worked.get(name, True) for name in result}
    assert result == expected
    assert len(hub.commits("model", "bthub/public")) == (3 if who == "write" else 2)


def use_collections():
    from huggingface_hub import HfApi

    api = HfApi()
    new = [api.create_collection("Tumor models", namespace="bthub", exists_ok=True).slug for _ in range(2)]
    slug = new[0]
    for _ in range(2):
        api.add_collection_item(slug, "bthub/one", "model", note="first", exists_ok=True)
    twice = outcome(api.add_collection_item, slug, "bthub/one", "model")
    missing = outcome(api.add_collection_item, slug, "bthub/missing", "model")
    items = api.add_collection_item(slug, "bthub/two", "dataset").items
    api.update_collection_item(slug, items[1].item_object_id, position=0, note="moved")
    api.update_collection_metadata(slug, description="All of it")
    got = api.get_collection(slug)
    api.delete_collection_item(slug, items[0].item_object_id)
    listed = [[(each.slug, len(each.items)) for each in api.list_collections(owner=who)] for who in ("bthub", "no")]
    api.delete_collection(slug)
    return {
        "slugs": new,
        "refused": [twice, missing, outcome(api.get_collection, slug)],
        "items": [(item.item_id, item.item_type, item.note, item.position) for item in got.items],
        "description": got.description,
        "listed": listed,
    }


def test_collections(hub, client):
    hub.add("model", "bthub/one", {})
    hub.add("dataset", "bthub/two", {})
    result = client(use_collections, token=hub.write_token)
    slug, again = result["slugs"]
    assert slug == again and slug.startswith("bthub/tumor-models-")
    assert result["refused"] == ["HfHubHTTPError 409", "RepositoryNotFoundError 404", "HfHubHTTPError 404"]
    assert result["items"] == [["bthub/two", "dataset", "moved", 0], ["bthub/one", "model", "first", 1]]
    assert result["description"] == "All of it" and result["listed"] == [[[slug, 1]], []]
    assert not hub.collections


# --- faults


def upload(repo_id, folder):
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, exist_ok=True)
    return outcome(lambda: bool(api.upload_folder(repo_id=repo_id, folder_path=folder)))


@pytest.mark.parametrize(
    ("fault", "first", "commits"),
    [
        # One commit is the Hub's own. Nothing is done:
        (("POST", "/commit/", "status"), "HfHubHTTPError 500", 1),
        # Done, but the client can't know:
        (("POST", "/commit/", "lost"), "RemoteProtocolError", 2),
        (("POST", "/commit/", "lost", 504), "HfHubHTTPError 504", 2),
        # The client itself tries again:
        (("PUT", "/lfs/", "cut"), True, 2),
        (("POST", "/preupload/", "status", 503), True, 2),
        (("POST", "/commit/", "slow"), True, 2),
    ],
)
def test_upload_faults(hub, client, folder, fault, first, commits):
    hub.fault(*fault)
    assert client(upload, MODEL, folder, token=hub.write_token) == first
    assert len(hub.commits("model", MODEL)) == commits
    before = hub.count("POST", "/commit/")
    assert client(upload, MODEL, folder, token=hub.write_token) is True
    assert len(hub.commits("model", MODEL)) == 2, "after a second try everything is there, once"
    assert hub.count("POST", "/commit/") - before == 2 - commits


def download(repo_id):
    from pathlib import Path

    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo_id, "large.data")).stat().st_size


def test_a_cut_download_is_taken_up_where_it_ended(hub, client):
    size = 24 * 2**20  # the client keeps what it has in pieces of 10 MiB
    hub.add("model", MODEL, {"large.data": bytes(size)})
    hub.fault("GET", "/resolve/", "cut")
    assert client(download, MODEL) == size
    assert [request.status for request in hub.requests if request.method == "GET"] == [0, 206]


def test_a_token_that_expires_on_the_way(hub, client, folder):
    hub.add("model", MODEL, {})
    hub.expire(hub.write_token, after=4)
    assert client(upload, MODEL, folder, token=hub.write_token) == "HfHubHTTPError 401"
    assert len(hub.commits("model", MODEL)) == 1
    hub.expire(hub.write_token, after=100)
    assert client(upload, MODEL, folder, token=hub.write_token) is True


def test_faults_strike_as_often_as_told(hub):
    fault = hub.fault("GET", r"^/a", "status", times=2, after=1)
    struck = [fault.strikes("GET", path) for path in ("/a", "/b", "/a", "/a", "/a")]
    assert struck == [False, False, True, True, False]
    assert not fault.strikes("POST", "/a")
