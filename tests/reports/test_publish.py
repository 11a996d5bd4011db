"""`bthub publish` against a Hub on loopback: one commit a repo, none without a change, and what can go wrong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import lgg_pair
import pytest
from hub_server import HubServer
from huggingface_hub import DatasetCard, HfApi, ModelCard, SpaceCard
from records import complete_run

from bthub import project
from bthub.errors import BthubError
from bthub.evaluation.evaluate import evaluate
from bthub.project import DATASET, DEFAULTS, TWO_STAGE
from bthub.reports import model_card
from bthub.reports import publish as module
from bthub.runs.folder import (
    CALIBRATION,
    CARD,
    CHECKPOINT,
    CONFIG,
    HISTORY,
    LOGS,
    METRICS,
    SPLIT,
    SPLITS,
    WEIGHTS,
    write_json,
)

default_pair, shipped_runs = lgg_pair.default_pair, lgg_pair.shipped_runs


@pytest.fixture(scope="module")
def evaluated(tiny_runs, tiny_lgg, tmp_path_factory) -> Path:
    """A `runs` folder with the tiny pair under the default names, evaluated, with what must never be published."""
    runs = tmp_path_factory.mktemp("clone") / "runs"
    runs.mkdir()
    for source, name in zip(tiny_runs, ("resnet18-lgg", "resunet18-lgg"), strict=True):
        run = complete_run(source, runs / name, tiny_lgg)
        evaluate(run, tiny_lgg, "test")
        model_card.write(run)
        for secret in (f"{CHECKPOINT}/last/model.safetensors", f"{LOGS}/events", ".env", "token.txt", "notes.json"):
            (run / secret).parent.mkdir(parents=True, exist_ok=True)
            (run / secret).write_text("hf_secret")
    return runs


@pytest.fixture
def runs(evaluated, tmp_path, monkeypatch) -> Path:
    copy = shutil.copytree(evaluated, tmp_path / "runs")
    for place in (module, project):
        monkeypatch.setattr(place, "SHIPPED_RUNS", copy)
    # It needs npm and the network; `test_static.py` builds it.
    monkeypatch.setattr(module, "browser_ready", lambda: False)
    # `make docs` builds them.
    monkeypatch.setattr(module, "docs_ready", lambda: False)
    return copy


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "nowhere")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    with HubServer(orgs=("bthub", "school")) as server:
        use(monkeypatch, server, server.write_token)
        yield server


def use(monkeypatch, server: HubServer, token: str | None) -> None:
    monkeypatch.setattr(module, "HfApi", lambda: HfApi(endpoint=server.url, token=token))


def publish(*what: str | Path, **options) -> list[str]:
    said = []
    module.publish([str(name) for name in what], say=said.append, **options)
    return said


def test_everything_once_and_then_nothing(server, runs, tiny_lgg):
    publish("all", org="school", data=tiny_lgg)
    apps = {("space", f"school/{name}"): sdk for name, sdk in module.APPS.values()}
    models = {("model", f"school/{name}") for name in (TWO_STAGE, "resnet18-lgg", "resunet18-lgg")}
    assert set(server.repos) == models | set(apps) | {("dataset", f"school/{DATASET}")}
    for key, repo in server.repos.items():
        assert len(server.commits(*key)) == 2, "the Hub's own commit, and ours"
        assert repo.sdk == apps.get(key) and not repo.private
    (collection,) = server.collections.values()
    assert {item["id"] for item in collection["items"]} == {repo_id for _, repo_id in server.repos}

    before = {key: server.commits(*key)[0].oid for key in server.repos}
    posts = server.count("POST", "/commit/") + server.count("POST", "/collections")
    said = publish("all", runs / "resnet18-lgg", org="school", data=tiny_lgg)
    assert sum(line.endswith("unchanged") for line in said) == 7
    assert [line.partition(": ")[2] for line in said if not line.endswith("unchanged")] == [
        "left out, it is built with npm (Node.js) and the pair's ONNX files"
    ]
    assert {key: server.commits(*key)[0].oid for key in server.repos} == before
    assert server.count("POST", "/commit/") + server.count("POST", "/collections") == posts


def test_the_folder_is_the_repo_and_nothing_else_goes(server, runs):
    for name in ("resnet18-lgg", "resunet18-lgg"):
        model_card.write(runs / name)  # which says whether the run is of the default pair
    publish(runs / "resnet18-lgg", runs / "resunet18-lgg")
    for name in ("resnet18-lgg", "resunet18-lgg"):
        files = server.files("model", f"bthub/{name}")
        assert not any(b"hf_secret" in data for data in files.values())
        for path, data in files.items():
            assert path == ".gitattributes" or (runs / name / path).read_bytes() == data
        there = {p.relative_to(runs / name).as_posix() for p in (runs / name).rglob("*") if p.is_file()}
        secret = {p for p in there if p.startswith((CHECKPOINT, LOGS)) or p in (".env", "token.txt", "notes.json")}
        assert set(files) - {".gitattributes"} == there - secret


def test_what_each_repo_needs_is_told_first_and_what_is_refused_stops_nothing(server, runs):
    """An account without a plan: a Gradio Space goes to ZeroGPU, a Docker Space can't be had."""
    server.free_account = True
    said = []
    with pytest.raises(
        BthubError, match="everything was published except bthub/brain-tumor-dashboard: .* needs a paid plan"
    ):
        module.publish(["dashboard", "space", str(runs / "resnet18-lgg"), "collection"], say=said.append)
    spaces = {name: repo for (kind, name), repo in server.repos.items() if kind == "space"}
    assert {name: repo.hardware for name, repo in spaces.items()} == {"bthub/brain-tumor-mri": "zero-a10g"}
    assert ("model", "bthub/resnet18-lgg") in server.repos and len(server.collections) == 1
    needs = dict(line.split(": new, needs ") for line in said[:3])  # before anything is written
    assert needs == {
        "model bthub/resnet18-lgg": module.NEEDS[None],
        "space bthub/brain-tumor-mri": module.NEEDS["gradio"],
        "space bthub/brain-tumor-dashboard": module.NEEDS["docker"],
    }
    assert any("trying ZeroGPU" in line for line in said)
    assert any(line == "space bthub/brain-tumor-dashboard: refused; going on with the rest" for line in said)
    server.free_account = False
    said = publish("space", "dashboard")
    assert any("brain-tumor-dashboard" in line and "files written" in line for line in said)
    assert server.repos["space", "bthub/brain-tumor-dashboard"].hardware is None


def test_a_static_space_needs_no_plan(server, monkeypatch, tmp_path):
    server.free_account = True
    page = module.Publication("space", "bthub/page", {CARD: b"a page"}, "static")
    monkeypatch.setattr(module, "browser_publication", lambda org: page)
    assert publish("browser")[0] == f"space bthub/page: new, needs {module.NEEDS['static']}"
    assert server.files("space", "bthub/page")[CARD] == b"a page"


def test_two_free_spaces_are_all_there_are(server, runs):
    server.free_account = True
    for name in ("one", "two"):
        server.add("space", f"bthub/{name}", {}, sdk="gradio").hardware = "zero-a10g"
    with pytest.raises(BthubError, match="wants a plan for it, which needs a paid plan .* on ZeroGPU"):
        publish("space")


def test_a_repo_of_someone_elses_making_stops_no_other(server, runs):
    server.add("model", "bthub/resnet18-lgg", {"thesis.pdf": b"years of work"})
    said = []
    with pytest.raises(BthubError, match="everything was published except bthub/resnet18-lgg: .*bthub didn't write it"):
        module.publish([str(runs / "resnet18-lgg"), str(runs / "resunet18-lgg"), "two-stage"], say=said.append)
    assert WEIGHTS in server.files("model", "bthub/resunet18-lgg")
    assert ("model", f"bthub/{TWO_STAGE}") not in server.repos and said[-1].endswith("without bthub/resnet18-lgg")


def test_only_what_differs_is_sent(server, runs):
    run = runs / "resnet18-lgg"
    publish(run)
    uploads = server.count("PUT", "/")
    (run / SPLIT).write_text((run / SPLIT).read_text() + "\n")
    (run / "figures" / "history.webp").rename(run / "figures" / "old.webp")
    shutil.copy(run / "figures" / "old.webp", run / "figures" / "history.webp")
    (said,) = publish(run)
    assert "2 files written, 0 removed" in said
    (run / "figures" / "old.webp").unlink()
    (said,) = publish(run)
    assert "0 files written, 1 removed" in said
    assert "figures/old.webp" not in server.files("model", "bthub/resnet18-lgg")
    assert len(server.commits("model", "bthub/resnet18-lgg")) == 4
    assert server.count("PUT", "/") == uploads, "the weights did not change"


def test_a_dry_run_writes_nothing(server, runs, tiny_lgg):
    said = publish("all", data=tiny_lgg, dry_run=True, private=True)
    assert server.repos == {} and server.collections == {}
    assert {request.method for request in server.requests} == {"GET"}
    assert f"+ {WEIGHTS}" in "\n".join(said) and "new, needs" in said[0]
    assert sum("make it (private)" in line for line in said) == 5
    publish("all", data=tiny_lgg)
    (runs / "resnet18-lgg" / SPLIT).write_text((runs / "resnet18-lgg" / SPLIT).read_text() + "\n")
    requests = len(server.requests)
    said = publish(runs / "resnet18-lgg", dry_run=True)
    assert said == ["model bthub/resnet18-lgg: would change\n  + split.csv"]
    assert {request.method for request in server.requests[requests:]} == {"GET"}


def test_the_dashboard_takes_along_what_else_was_measured_without_weights(server, runs):
    other = shutil.copytree(runs / "resnet18-lgg", runs / "simple_cnn-lgg")
    shutil.copytree(runs / "resnet18-lgg", runs / "unmeasured")
    (runs / "unmeasured" / METRICS).unlink()
    # In the clone it shares the list of its samples with others; published, it has one of its own.
    (runs / SPLITS).mkdir()
    samples = (other / SPLIT).replace(runs / SPLITS / "lgg-patient.csv")
    publish("dashboard")
    files = server.files("space", f"bthub/{module.APPS['dashboard'][0]}")
    records = {path: data for path, data in files.items() if path.startswith("runs/")}
    assert {path.split("/")[1] for path in records} == {"simple_cnn-lgg"}
    assert records.pop(f"runs/{other.name}/{SPLIT}") == samples.read_bytes()
    assert all((runs / path.removeprefix("runs/")).read_bytes() == data for path, data in records.items())
    assert {f"runs/{other.name}/{name}" for name in (METRICS, HISTORY, CONFIG)} < set(records)
    assert not any(path.endswith((".safetensors", ".png", ".py")) or b"hf_secret" in records[path] for path in records)


def test_private(server, runs):
    for _ in range(2):
        publish(runs / "resnet18-lgg", private=True)
        assert server.repos["model", "bthub/resnet18-lgg"].private
    publish(runs / "resunet18-lgg")
    with pytest.raises(BthubError, match="is public"):
        publish(runs / "resunet18-lgg", private=True)


def test_a_repo_of_someone_elses_making_is_left_alone(server, runs):
    server.add("model", "bthub/resnet18-lgg", {"thesis.pdf": b"years of work"})
    for dry_run in (True, False):
        with pytest.raises(BthubError, match="bthub didn't write it"):
            publish(runs / "resnet18-lgg", dry_run=dry_run)
    assert "thesis.pdf" in server.files("model", "bthub/resnet18-lgg")
    # Nor is one whose commits were made into one.
    repo = server.repos["model", "bthub/resnet18-lgg"]
    squashed = replace(repo.at("main"), parent=None)
    repo.commits = {squashed.oid: squashed}
    with pytest.raises(BthubError, match="bthub didn't write it"):
        publish(runs / "resnet18-lgg")
    assert "thesis.pdf" in server.files("model", "bthub/resnet18-lgg")
    # One that is new, or that a kill left without a commit, isn't.
    server.add("model", "bthub/resunet18-lgg", {})
    publish(runs / "resunet18-lgg")
    assert WEIGHTS in server.files("model", "bthub/resunet18-lgg")


def test_a_run_of_ones_own_goes_only_where_it_is_named(server, runs, tiny_lgg):
    shutil.copytree(runs / "resnet18-lgg", runs / "my-hospital")
    (runs / "my-hospital" / SPLIT).write_text("file,split\ntumor/MUELLER_Anna_1961.jpg,train\n")
    publish("all", data=tiny_lgg)
    assert not any("my-hospital" in repo_id for _, repo_id in server.repos)
    assert not any("my-hospital" in path for key in server.repos for path in server.files(*key))


def test_outside_a_clone_there_is_nothing_to_publish(server, monkeypatch, tmp_path):
    monkeypatch.setattr(project, "SHIPPED_RUNS", tmp_path / "runs")
    with pytest.raises(BthubError, match="there is nothing to publish"):
        publish("all")


def test_a_name_that_the_hub_does_not_take(server, runs):
    odd = (runs / "resnet18-lgg").rename(runs / "my resnet")
    with pytest.raises(BthubError, match="rename the folder"):
        publish(odd)


def test_another_organization_by_the_environment(server, runs, monkeypatch):
    """BTHUB_ORG replaces bthub.project.ORG; what the apps' cards name stays the clone's."""
    monkeypatch.setattr(module, "ORG", "school")
    publish("dashboard", org="school")
    readme = SpaceCard(server.files("space", f"school/{module.APPS['dashboard'][0]}")[CARD].decode())
    assert readme.data.datasets == [f"school/{DATASET}"] and all(m.count("/") == 1 for m in readme.data.models)


def test_a_fork_publishes_its_own(server, runs, tiny_lgg):
    publish("all", org="school", data=tiny_lgg)
    for name, _ in module.APPS.values():
        files = server.files("space", f"school/{name}")
        assert files["bthub/ORG"] == b"school\n"
        readme = SpaceCard(files[CARD].decode())
        assert set(readme.data.models) >= {f"school/{run}" for run in DEFAULTS.values()}
        assert readme.data.datasets == [f"school/{DATASET}"]
        assert {"app.py", "serve.py"} & set(files) and "bthub/inference/pipeline.py" in files
        assert not any("__pycache__" in path for path in files)
    for name in ("resnet18-lgg", "resunet18-lgg", TWO_STAGE):
        readme = server.files("model", f"school/{name}")[CARD].decode()
        assert "bthub/" not in readme.replace("school/", "") and f"school/{name}" in readme
    config = json.loads(server.files("model", f"school/{TWO_STAGE}")["config.json"])
    assert config["detector"] == {
        "id": "school/resnet18-lgg",
        "revision": server.commits("model", "school/resnet18-lgg")[0].oid,
    }
    readme = server.files("dataset", f"school/{DATASET}")[CARD].decode()
    assert f'load_dataset("school/{DATASET}"' in readme and "PATH_OR_HUB_ID" not in readme
    assert json.loads(server.files("dataset", f"school/{DATASET}")["dataset.json"])["title"] == "LGG MRI Segmentation"


def test_cards_hold_valid_metadata(server, runs, tiny_lgg):
    """The server checks them as the Hub does when they are committed; here, that they say what they must."""
    publish("all", data=tiny_lgg)
    for name in ("resnet18-lgg", "resunet18-lgg", TWO_STAGE):
        data = ModelCard(server.files("model", f"bthub/{name}")[CARD].decode()).data
        assert data.license == "cc-by-nc-sa-4.0" and data.pipeline_tag and data.library_name
        assert data.datasets == [f"bthub/{DATASET}"]
    assert data.base_model == ["bthub/resnet18-lgg", "bthub/resunet18-lgg"]
    assert DatasetCard(server.files("dataset", f"bthub/{DATASET}")[CARD].decode()).data.license == "cc-by-nc-sa-4.0"


def test_the_stages_can_move_on(server, runs):
    publish(runs / "resnet18-lgg", runs / "resunet18-lgg", "two-stage")
    (runs / "resnet18-lgg" / HISTORY).write_text((runs / "resnet18-lgg" / HISTORY).read_text() + "\n")
    said = publish(runs / "resnet18-lgg", runs / "resunet18-lgg", "two-stage")
    assert ["unchanged" in line for line in said] == [False, True, False]
    config = json.loads(server.files("model", f"bthub/{TWO_STAGE}")["config.json"])
    assert config["detector"]["revision"] == server.commits("model", "bthub/resnet18-lgg")[0].oid


def test_figures_that_are_not_there_are_drawn(runs):
    """After `bthub evaluate` there is a gallery, and in a clone nothing at all."""
    run = runs / "resunet18-lgg"
    published = set(module.run_publication(run, "school").files)
    wanted = {f"figures/{name}.webp" for name in ("history", "patient-test", "patient-test-gallery")}
    assert wanted <= published
    for name in ("history", "patient-test"):
        (run / "figures" / f"{name}.webp").unlink()
    assert set(module.run_publication(run, "school").files) == published
    shutil.rmtree(run / "figures")
    again = module.run_publication(run, "school").files
    assert set(again) == published - {"figures/patient-test-gallery.webp"}
    assert b"history.webp" in again["README.md"] and b"gallery" not in again["README.md"]


def test_a_pair_is_not_told_by_the_figures_of_other_weights(server, runs):
    publish(runs / "resnet18-lgg", runs / "resunet18-lgg")
    calibration = json.loads((runs / "resnet18-lgg" / CALIBRATION).read_text())
    write_json(runs / "resnet18-lgg" / CALIBRATION, calibration | {"threshold": 0.123})
    with pytest.raises(BthubError, match="resnet18-lgg has other weights or thresholds than .*publish .* first"):
        publish("two-stage")
    assert ("model", f"bthub/{TWO_STAGE}") not in server.repos


@pytest.mark.parametrize(
    ("token", "org", "words"),
    [
        (None, "bthub", "no Hub token|rejects this token"),
        ("read_token", "bthub", "this token is read-only"),
        ("expired_token", "bthub", "has expired"),
        ("stranger_token", "bthub", "doesn't belong to bthub"),
        ("write_token", "elsewhere", "doesn't belong to elsewhere"),
    ],
)
def test_tokens(server, runs, monkeypatch, token, org, words):
    use(monkeypatch, server, token and getattr(server, token))
    with pytest.raises(BthubError, match=words):
        publish(runs / "resnet18-lgg", org=org)
    assert server.repos == {}


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("POST", "/commit/", "status", 500),
        ("POST", "/commit/", "status", 503),
        ("POST", "/commit/", "lost", 500),
        ("POST", "/commit/", "lost", None),
        ("POST", "/commit/", "cut", None),
        ("PUT", "/", "cut", None),
        ("PUT", "/", "status", 500),
        ("POST", "/api/repos/create", "lost", 500),
        ("GET", "/tree/", "status", 502),
        ("POST", "/commit/", "slow", None),
    ],
)
def test_a_fault_that_passes_is_survived(server, runs, method, path, kind, status):
    server.fault(method, path, kind, status)
    publish(runs / "resnet18-lgg")
    assert len(server.commits("model", "bthub/resnet18-lgg")) == 2
    files = server.files("model", "bthub/resnet18-lgg")
    assert files[WEIGHTS] == (runs / "resnet18-lgg" / WEIGHTS).read_bytes() and CARD in files
    assert publish(runs / "resnet18-lgg") == ["model bthub/resnet18-lgg: unchanged"]


def test_a_fault_that_stays_is_told_and_nothing_is_half_written(server, runs):
    fault = server.fault("POST", "resunet18-lgg/commit/", "status", 500, times=None)
    with pytest.raises(BthubError, match="HTTP 500.*run this again"):
        publish(runs / "resnet18-lgg", runs / "resunet18-lgg")
    assert len(server.commits("model", "bthub/resnet18-lgg")) == 2
    assert set(server.files("model", "bthub/resunet18-lgg")) == {".gitattributes"}
    server.faults.remove(fault)
    said = publish(runs / "resnet18-lgg", runs / "resunet18-lgg")
    assert said[0].endswith("unchanged") and "commit" in said[1]


def test_a_token_that_expires_on_the_way(server, runs):
    server.expire(server.write_token, after=4)
    with pytest.raises(BthubError, match="expired"):
        publish(runs / "resnet18-lgg", runs / "resunet18-lgg")
    assert all(set(server.files(*key)) == {".gitattributes"} or WEIGHTS in server.files(*key) for key in server.repos)


def test_what_is_not_complete_is_not_published(server, runs, tiny_lgg, tmp_path):
    (runs / "resnet18-lgg" / HISTORY).unlink()
    with pytest.raises(BthubError, match=HISTORY):
        publish(runs / "resunet18-lgg", runs / "resnet18-lgg")
    with pytest.raises(BthubError, match="neither a run folder nor one of"):
        publish("nowhere")
    with pytest.raises(BthubError, match="--data"):
        publish("dataset", data=tmp_path / "nowhere")
    with pytest.raises(BthubError, match="publish runs/resnet18-lgg first"):
        publish("two-stage")
    assert server.repos == {}


def test_other_sets_are_not_published(server, tmp_path):
    from PIL import Image

    from bthub.data.build import build

    for label in ("no", "yes"):
        for i in range(4):
            path = tmp_path / "set" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((16, 16), 50).save(path)
    build(tmp_path / "set", tmp_path / "built")
    with pytest.raises(BthubError, match="license"):
        publish("dataset", data=tmp_path / "built")
    assert server.repos == {}


def test_the_documentation_is_a_static_space(server, monkeypatch):
    def build(folder: Path) -> None:
        (folder / "api").mkdir()
        for name in ("index.html", "api/index.html", "sitemap.xml", "sitemap.xml.gz"):
            (folder / name).write_text(f"<p>{name}</p>")

    monkeypatch.setattr(module, "build_docs", build)
    monkeypatch.setattr(module, "docs_ready", lambda: True)
    publish("docs", org="school")
    assert server.repos["space", f"school/{module.DOCS}"].sdk == "static"
    files = server.files("space", f"school/{module.DOCS}")
    assert set(files) - {".gitattributes"} == {"index.html", "api/index.html", "README.md"}
    assert b"license: apache-2.0" in files["README.md"] and b"not a medical device" in files["README.md"]
    assert publish("docs", org="school")[-1].endswith("unchanged")


def test_documentation_without_its_packages_is_a_sentence(server, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BthubError, match=r"bthub\[docs\]"):
        publish("docs")
