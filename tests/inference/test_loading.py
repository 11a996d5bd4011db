"""Everything that is published, loaded with the stock clients: each line in a fresh process with an empty cache.

The shipped pair is published to a Hub on loopback with `bthub publish`, as a maintainer would; for the slow tests, all
repos of the project are. The code below is what a user types; where bthub must not be needed, it can't be imported.
"""

import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import skimage
import yaml
from fresh import Fresh
from hub_server import HubServer
from ports import free_port
from records import complete_run

from bthub import project

REPOSITORY = Path(__file__).parents[2]
TUMOR, OTHER, HEALTHY = (
    str(REPOSITORY / "space" / "examples" / f"{name}.png")
    for name in ("TCGA_DU_5871_19941206_22", "TCGA_FG_6691_20020405_25", "TCGA_DU_8162_19961029_22")
)
CAT = str(Path(skimage.__file__).parent / "data" / "chelsea.png")
WITHOUT_BTHUB = "import sys; sys.modules['bthub'] = None\n"


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def publish(hub, fresh: Fresh, tmp_path_factory):
    """`bthub publish`, in a fresh process."""
    environment = hub.environment(tmp_path_factory.mktemp("publisher"), hub.write_token)

    def run(*arguments: str) -> None:
        code = "import sys\nfrom bthub.cli import main\nsys.exit(main())"
        done = fresh.run(code, "publish", *arguments, folder=REPOSITORY, environment=environment)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="module")
def published(hub, publish, shipped_runs) -> HubServer:
    """The Hub with the shipped pair: its two repos, and that of both stages."""
    publish(*map(str, shipped_runs), "two-stage")
    return hub


@pytest.fixture(scope="module")
def everything(published, publish, tiny_lgg, simple_cnn) -> HubServer:
    """The Hub after `bthub publish all`; and the simple CNN, which isn't among the runs of the clone."""
    publish("all", "--data", str(tiny_lgg))
    publish(str(simple_cnn))
    return published


@pytest.fixture(scope="module")
def simple_cnn(tiny_lgg, tiny_runs, tmp_path_factory) -> Path:
    """An untrained simple CNN as a complete run."""
    import torch

    from bthub.evaluation import cost
    from bthub.evaluation.evaluate import evaluate
    from bthub.models.classifier import create_classifier, save_classifier
    from bthub.reports import model_card

    folder = tmp_path_factory.mktemp("cnn")
    torch.manual_seed(1)
    run = complete_run(tiny_runs[0], folder / "simple-cnn-lgg", tiny_lgg)
    for path in ("model.safetensors", "config.json"):
        (run / path).unlink()
    save_classifier(run, create_classifier("simple_cnn", 2), "simple_cnn", ["no_tumor", "tumor"], 64, 1.0)
    evaluate(run, tiny_lgg, "test")
    cost.write(run)
    model_card.write(run)
    shutil.rmtree(run / "logs", ignore_errors=True)
    return run


@pytest.fixture
def load(published, fresh: Fresh, tmp_path):
    """Run code in a fresh process with a cache of its own; returns what it assigned to `answer`."""

    def run(code: str, cache: Path = tmp_path / "cache", **environment: str):
        code = textwrap.dedent(code) + "\nimport json, sys\nprint('answer:' + json.dumps(answer), file=sys.stderr)"
        done = fresh.run(code, folder=tmp_path, environment=published.environment(cache) | environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Do you wish to run the custom code" not in done.stdout
        return json.loads(done.stderr.rpartition("answer:")[2])

    return run


@pytest.fixture(scope="module")
def expected(shipped_runs):
    """What bthub itself finds with the run folders of the clone."""
    from bthub import load_pipeline

    pipe = load_pipeline(*shipped_runs)
    return {path: pipe(path).to_dict() for path in (TUMOR, OTHER, HEALTHY)}


def comparable(result: dict) -> dict:
    """Without the times, and the ids, which are a folder's here and a Hub repo's there."""
    return {key: value for key, value in result.items() if key not in ("milliseconds", "models")}


def test_classifier_with_transformers(load, expected):
    scores = load(
        f"""
        {WITHOUT_BTHUB}
        from transformers import pipeline
        answer = pipeline("image-classification", model="bthub/lite0-mri")({TUMOR!r})
        """
    )
    assert {entry["label"] for entry in scores} == {"tumor", "no_tumor"}
    found = {entry["label"]: entry["score"] for entry in scores}["tumor"]
    assert found == pytest.approx(expected[TUMOR]["tumor_probability"], abs=1e-5)


def test_classifier_with_timm(load, expected):
    found = load(
        f"""
        {WITHOUT_BTHUB}
        import timm, torch
        from PIL import Image
        from timm.data import create_transform, resolve_data_config
        model = timm.create_model("hf-hub:bthub/lite0-mri", pretrained=True).eval()
        transform = create_transform(**resolve_data_config(model.pretrained_cfg))
        with torch.inference_mode():
            pixels = [transform(Image.open(path).convert("RGB")) for path in {[TUMOR, HEALTHY]!r}]
            answer = model(torch.stack(pixels)).softmax(dim=1)[:, model.pretrained_cfg["label_names"].index("tumor")]
        answer = answer.tolist()
        """
    )
    assert found == pytest.approx([expected[path]["tumor_probability"] for path in (TUMOR, HEALTHY)], abs=1e-5)


@pytest.mark.slow
def test_simple_cnn(everything, load, simple_cnn):
    from PIL import Image

    from bthub.models.classifier import load_classifier
    from bthub.runs.folder import RunFolder

    classifier = load_classifier(RunFolder.open(simple_cnn))
    probability = classifier.predict([Image.open(TUMOR).convert("RGB")])[0]
    expected = dict(zip(classifier.labels, probability.tolist(), strict=True))
    for before, trust in ((WITHOUT_BTHUB, True), ("import bthub.models", None)):
        scores = load(
            f"""
            {before}
            from transformers import pipeline
            classify = pipeline("image-classification", model="bthub/simple-cnn-lgg", trust_remote_code={trust})
            answer = classify({TUMOR!r})
            """
        )
        assert {entry["label"]: entry["score"] for entry in scores} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("before", "trust"), [(WITHOUT_BTHUB, True), ("import bthub.models", None)], ids=["without bthub", "with bthub"]
)
def test_localizer_with_transformers(load, expected, before, trust):
    found = load(
        f"""
        {before}
        import numpy as np
        from PIL import Image
        from transformers import pipeline
        outline = pipeline("image-segmentation", model="bthub/resunet18-mri", trust_remote_code={trust})
        picture = Image.open({TUMOR!r}).convert("RGB")
        wide = Image.fromarray(np.pad(np.asarray(picture), ((0, 0), (40, 80), (0, 0))))
        answer = {{
            "found": [[s["label"], s["score"], int((np.asarray(s["mask"]) > 0).sum())] for s in outline(picture)],
            "strict": len(outline(picture, threshold=1.1)),
            "smaller": int((np.asarray(outline(picture, mask_threshold=0.99)[0]["mask"]) > 0).sum()),
            "black": outline(Image.new("RGB", (64, 64))),
            "size": outline(wide)[0]["mask"].size,
        }}
        """
    )
    ((label, score, area),) = found["found"]
    assert label == "tumor" and 0.5 < score <= 1 and area == expected[TUMOR]["area_px"]
    assert found["strict"] == 0 and 0 < found["smaller"] < area and found["black"] == []
    assert found["size"] == [256 + 120, 256]


def test_two_stages_in_one_line(load, expected, published):
    found = load(
        f"""
        {WITHOUT_BTHUB}
        from transformers import pipeline
        analyze = pipeline(model="bthub/detect-and-localize-lgg", trust_remote_code=True)
        paths = {[TUMOR, OTHER, HEALTHY]!r}
        single = [analyze(path).to_dict() for path in paths]
        batch = [result.to_dict() for result in analyze(paths, batch_size=3)]
        forced = analyze(paths[2], always_localize=True)
        answer = single, batch, analyze.task, forced.mask is not None, list(analyze(paths[0]).overlay().size)
        """
    )
    single, batch, task, forced, size = found
    for path, alone, batched in zip((TUMOR, OTHER, HEALTHY), single, batch, strict=True):
        assert comparable(alone) == comparable(expected[path])
        assert alone["tumor_probability"] == pytest.approx(batched["tumor_probability"], abs=1e-5)
        assert alone["area_px"] == pytest.approx(batched["area_px"], abs=2)
    assert task == "detect-and-localize" and forced and size == [256, 256]
    assert single[0]["models"] == {
        stage: {"id": f"bthub/{name}", "revision": published.commits("model", f"bthub/{name}")[0].oid}
        for stage, name in (("detector", "lite0-mri"), ("localizer", "resunet18-mri"))
    }


@pytest.mark.slow
def test_two_stages_refuse_what_is_no_slice(load, shipped_runs):
    from bthub import NotASliceError, load_pipeline

    with pytest.raises(NotASliceError) as expected:
        load_pipeline(*shipped_runs)(CAT)
    found = load(
        f"""
        {WITHOUT_BTHUB}
        from transformers import pipeline
        analyze = pipeline(model="bthub/detect-and-localize-lgg", trust_remote_code=True)
        try:
            analyze({CAT!r})
        except Exception as error:
            answer = [type(error).__name__, str(error), analyze({CAT!r}, check_input=False).width]
        """
    )
    assert found == ["NotASliceError", str(expected.value), 451]


def test_bthub_from_the_hub_and_offline_from_the_cache(load, expected, tmp_path, published):
    commits = [published.commits("model", f"bthub/{name}")[0].oid for name in ("lite0-mri", "resunet18-mri")]
    code = f"""
        import bthub
        pipe = bthub.load_pipeline("bthub/lite0-mri", "bthub/resunet18-mri")
        result = pipe({TUMOR!r}).to_dict()
        answer = result
        """
    online = load(code, tmp_path / "kept")
    assert comparable(online) == comparable(expected[TUMOR])
    assert [model["revision"] for model in online["models"].values()] == commits
    requests = len(published.requests)
    offline = load(code, tmp_path / "kept", HF_HUB_OFFLINE="1")
    assert comparable(offline) == comparable(online) and offline["models"] == online["models"]
    assert len(published.requests) == requests


@pytest.mark.slow
def test_dataset_whole_and_streaming(everything, load, tiny_lgg):
    from bthub.data.dataset import load_split

    found = load(
        f"""
        {WITHOUT_BTHUB}
        from datasets import load_dataset
        answer = {{}}
        for protocol in ("patient", "slice"):
            whole = load_dataset("bthub/lgg-mri-segmentation", protocol)
            answer[protocol] = {{split: len(rows) for split, rows in whole.items()}}
        default = load_dataset("bthub/lgg-mri-segmentation", split="train")
        stream = load_dataset("bthub/lgg-mri-segmentation", "slice", split="test", streaming=True)
        row = next(iter(stream))
        answer["default"] = len(default)
        answer["streamed"] = sum(1 for _ in stream)
        answer["row"] = [row["image"].size, row["mask"].mode, sorted(row)]
        answer["labels"] = default.features["label"].names
        """
    )
    for protocol in ("patient", "slice"):
        assert found[protocol] == {
            split: len(load_split(tiny_lgg, split, protocol)) for split in ("train", "validation", "test")
        }
    assert found["default"] == found["patient"]["train"] and found["streamed"] == found["slice"]["test"]
    assert found["row"][:2] == [[256, 256], "L"] and "patient_id" in found["row"][2]
    assert found["labels"] == ["no_tumor", "tumor"]


@pytest.mark.slow
def test_dataset_pixels_are_stored_once(everything):
    files = everything.files("dataset", "bthub/lgg-mri-segmentation")
    parquet = [path for path in files if path.endswith(".parquet")]
    assert parquet and all("patient-" in path and "slice-" in path for path in parquet)


@pytest.mark.slow
def test_revisions(load, published, shipped_runs):
    """An older commit loads by its id, and a tag by its name, for each client."""
    old = published.commits("model", "bthub/lite0-mri")[0].oid
    config = json.loads((shipped_runs[0] / "config.json").read_text())
    renamed = json.dumps({**config, "label_names": ["clear", "tumor"]}).encode()
    published.add("model", "bthub/lite0-mri", {"config.json": renamed})
    repo = published.repos["model", "bthub/lite0-mri"]
    repo.tags["v1"] = old
    try:
        found = load(
            f"""
            import timm
            from bthub.runs.folder import RunFolder
            from transformers import pipeline
            answer = []
            for revision in (None, {old!r}, "v1"):
                classify = pipeline("image-classification", model="bthub/lite0-mri", revision=revision)
                answer.append(sorted(entry["label"] for entry in classify({TUMOR!r})))
                answer.append(sorted(RunFolder.open("bthub/lite0-mri", revision).config["label_names"]))
            model = timm.create_model("hf-hub:bthub/lite0-mri@v1", pretrained=True)
            answer.append(sorted(model.pretrained_cfg["label_names"]))
            """
        )
    finally:
        repo.branches["main"] = old
    assert found == [["clear", "tumor"]] * 2 + [["no_tumor", "tumor"]] * 5


MISSING = {
    'bthub.load_pipeline("bthub/nothing")': "neither a folder here nor a repo on the Hub",
    'bthub.load_pipeline("bthub/lite0-mri", revision="nothing")': "no revision 'nothing'",
    'bthub.load_pipeline("bthub/detect-and-localize-lgg")': "has no model.safetensors",
    'bthub.load_pipeline("no such thing")': "neither a folder here nor a Hub id",
    'load_split("bthub/nothing", "test")': "cannot be read as a data set",
}
MISSING_IN_A_DATA_SET = {
    'load_split("bthub/lgg-mri-segmentation", "test", revision="nothing")': "cannot be read as a data set",
    'load_split("bthub/lgg-mri-segmentation", "nothing")': "no split 'nothing'",
}


def test_what_is_missing_is_told_in_a_sentence(load):
    told_in_a_sentence(load, MISSING)


@pytest.mark.slow
def test_what_is_missing_in_a_data_set_is_told_in_a_sentence(everything, load):
    told_in_a_sentence(load, MISSING_IN_A_DATA_SET)


def told_in_a_sentence(load, cases: dict[str, str]) -> None:
    messages = load(
        f"""
        import bthub
        from bthub.data import load_split
        answer = []
        for code in {list(cases)!r}:
            try:
                eval(code)
                answer.append("")
            except bthub.BthubError as error:
                answer.append(str(error))
        """
    )
    for (code, words), message in zip(cases.items(), messages, strict=True):
        assert words in message and "\n" not in message.strip(), code


@pytest.mark.slow
def test_the_space_runs_from_its_published_files(everything, expected, tmp_path):
    """Its files in a folder of their own, an empty cache: the app finds its package beside it and its models online."""
    from gradio_client import Client, handle_file

    folder = tmp_path / "space"
    for path, data in everything.files("space", "bthub/brain-tumor-mri").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    # A mark in the package of the Space, to see that it is the one that runs, not the one installed here.
    module = folder / "bthub" / "inference" / "result.py"
    module.write_text(module.read_text().replace('DISCLAIMER = "Research', 'DISCLAIMER = "From the Space: research'))
    port = free_port()
    environment = everything.environment(tmp_path / "cache") | {"PORT": str(port), "TMPDIR": str(tmp_path)}
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        _wait_for("bthub: ready", log, process)
        _, result = Client(f"http://127.0.0.1:{port}", verbose=False).predict(handle_file(TUMOR), api_name="/analyze")
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert result["disclaimer"].startswith("From the Space")
    assert comparable(result) == comparable(expected[TUMOR]) | {"disclaimer": result["disclaimer"]}
    assert result["models"]["detector"]["id"] == "bthub/lite0-mri"


@pytest.mark.slow
def test_the_dashboard_runs_from_its_published_files(everything, load, tmp_path):
    """Likewise: no clone. It shows the models that its card names, from the Hub, and the other runs' records."""
    folder = tmp_path / "dashboard"
    for path, data in everything.files("space", "bthub/brain-tumor-dashboard").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    code = f"""
        import os, sys
        os.chdir({str(folder)!r})
        sys.path.insert(0, {str(folder)!r})
        from streamlit.testing.v1 import AppTest
        import bthub
        page = AppTest.from_file("app.py", default_timeout=300).run()
        assert not page.exception, page.exception
        page.switch_page("views/compare.py").run()
        assert not page.exception, page.exception
        answer = {{
            "package": bthub.__file__,
            "title": page.title[0].value,
            "models": page.multiselect[0].options,
            "errors": [e.value for e in page.error],
            "tables": [frame.value.to_csv() for frame in page.dataframe],
        }}
    """
    shown = load(code)
    assert shown["package"].startswith(str(folder))
    assert shown["title"] == "Compare" and shown["errors"] == []
    named = yaml.safe_load((folder / "README.md").read_text().split("---")[1])["models"]
    assert {name.rpartition("/")[2] for name in named} == published_runs()
    # Models are called by their networks, those with weights first.
    assert {"EfficientNet-Lite0 (any MRI)", "EfficientNet-B0", "ResNet-18", "VGG16"} < set(
        shown["models"][: len(named)]
    )
    measured = {path.name for path in project.shipped_runs() if is_tracked(path / "metrics.json")}
    assert len(shown["models"]) == sum("patient/test" in metrics_of(run) for run in measured) > len(named)
    assert any("EfficientNet-Lite0" in table for table in shown["tables"])


def published_runs() -> set[str]:
    """The runs of the clone that have weights."""
    return {path.name for path in project.shipped_runs() if is_tracked(path / "model.safetensors")}


def metrics_of(run: str) -> dict:
    return json.loads((project.place_of(run) / "metrics.json").read_text())


def is_tracked(path: Path) -> bool:
    """Whether a file belongs to the clone: a developer's folder holds more weights than are shipped."""
    command = ["git", "ls-files", "--error-unmatch", str(path)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == 0


def _wait_for(words: str, log: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while words not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def test_card_snippets_run(load, published):
    """The Python of each model card, as it stands on the Hub, on a real slice."""
    codes = []
    for name in ("lite0-mri", "resunet18-mri", "detect-and-localize-lgg"):
        card = published.files("model", f"bthub/{name}")["README.md"].decode()
        blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert blocks
        codes.append("\n".join(blocks).replace("slice.tif", TUMOR).replace("slice.png", TUMOR))
    ran = load(
        f"""
        import bthub.project
        # The second stage of a half-named pair is the project's own, here from the Hub as well.
        bthub.project.SHIPPED_RUNS /= "nowhere"
        for code in {codes!r}:
            exec(code, {{}})
        answer = True
        """
    )
    assert ran is True
