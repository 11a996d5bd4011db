"""The input check: what isn't a slice of a brain MRI is refused, by the shipped run as well as it says."""

import gzip
import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import bthub
from bthub import BthubError, NotASliceError, cli, load_pipeline
from bthub.data.fingerprint import describe_rows
from bthub.data.views import FLAIR_ALONE, LGG_VIEWS, SEQUENCES, show
from bthub.imaging.image_io import read_image
from bthub.imaging.kinds import FLAIR_LIKE, OTHER_MRI
from bthub.models.input_check import InputCheck, describe, letterbox, load_input_check, save_input_check
from bthub.runs.folder import INPUT_CHECK, INPUT_CHECK_WEIGHTS, ONNX_INPUT_CHECK, write_json
from bthub.training import ood_check, ood_images

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures() -> list[ood_images.Outside]:
    return ood_images.outside_pictures()


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(path)
    return path


def slices_of(kaggle: Path) -> list[Path]:
    return sorted(kaggle.rglob("*[0-9].tif"))


def make_check(kaggle: Path) -> InputCheck:
    """References are the slices of the tests, the network is untrained: enough to know noise."""
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=0).eval()
    features = describe(network, [Image.open(path).convert("RGB") for path in slices_of(kaggle)], 64)
    check = InputCheck(network, 64, features, neighbors=2, threshold=0)
    return replace(check, threshold=1.5 * float(check.distances(features).max()))


@pytest.fixture(scope="module")
def checked(tiny_runs, kaggle, tmp_path_factory) -> tuple[Path, Path]:
    """The tiny runs, the detector with an input check."""
    detector = shutil.copytree(tiny_runs[0], tmp_path_factory.mktemp("checked") / "detector")
    check = make_check(kaggle)
    save_input_check(check, detector / INPUT_CHECK_WEIGHTS)
    record = {"architecture": "resnet10t", "image_size": 64, "neighbors": 2, "threshold": check.threshold}
    write_json(detector / INPUT_CHECK, record)
    return detector, tiny_runs[1]


def test_a_check_with_the_old_key_is_read(checked, tmp_path):
    record = json.loads((checked[0] / INPUT_CHECK).read_text())
    record["neighbours"] = record.pop("neighbors")  # codespell:ignore
    write_json(tmp_path / INPUT_CHECK, record)
    assert load_input_check(tmp_path / INPUT_CHECK, checked[0] / INPUT_CHECK_WEIGHTS).neighbors == 2


@pytest.fixture(scope="module")
def pipe(checked) -> bthub.Pipeline:
    return load_pipeline(*checked, device="cpu")


# -- the check itself


@pytest.mark.parametrize("size", [(256, 256), (300, 150), (61, 97), (3200, 100), (16, 16)])
def test_the_letterbox_keeps_the_picture_whole(size):
    pixels = letterbox(Image.new("RGB", size, (255, 51, 0)), 64)
    assert pixels.shape == (3, 64, 64) and pixels.dtype == torch.float32
    inside = np.count_nonzero(pixels[0] == 1)
    assert inside == max(1, round(64 * size[0] / max(size))) * max(1, round(64 * size[1] / max(size)))
    assert pixels[0].sum() == inside and pixels[1].sum() == pytest.approx(0.2 * inside) and pixels[2].sum() == 0


def test_distances_are_those_to_the_kth_neighbor(kaggle):
    check = make_check(kaggle)
    features = torch.nn.functional.normalize(torch.rand(5, check.references.shape[1]))
    expected = [sorted((one - check.references).norm(dim=1).tolist())[1] for one in features]
    np.testing.assert_allclose(check.distances(features), expected, rtol=1e-4)


def test_what_is_saved_is_what_is_loaded(checked, kaggle):
    check = make_check(kaggle)
    saved = load_input_check(checked[0] / INPUT_CHECK, checked[0] / INPUT_CHECK_WEIGHTS)
    images = [Image.open(path).convert("RGB") for path in slices_of(kaggle)[:4]]
    assert (saved.size, saved.neighbors, saved.threshold) == (64, 2, check.threshold)
    one, other = (c.distances(describe(c.network, images, 64)) for c in (check, saved))
    np.testing.assert_allclose(one, other, atol=2e-3)  # half precision


# -- in the pipeline


def test_a_slice_passes_and_noise_is_refused(pipe, kaggle, noise):
    path = slices_of(kaggle)[0]
    result = pipe(path)
    assert result.milliseconds["check"] > 0
    with pytest.raises(NotASliceError, match=r"noise\.png: this doesn't look like a slice of a brain MRI") as caught:
        pipe(noise)
    assert isinstance(caught.value, BthubError) and "\n" not in str(caught.value)
    for source, name in ((Image.open(noise), "noise.png"), (np.asarray(Image.open(noise)), "the array")):
        with pytest.raises(NotASliceError, match=name):
            pipe(source)


def test_in_a_batch_the_refused_one_is_named(pipe, kaggle, noise):
    paths = slices_of(kaggle)[:3]
    with pytest.raises(NotASliceError, match="noise.png"):
        pipe([*paths, noise])
    results = pipe(iter([*paths, noise]), batch_size=3)
    assert [next(results).label for _ in paths] == ["tumor"] * 3
    with pytest.raises(NotASliceError):
        next(results)


def test_the_check_comes_before_the_detector(pipe, noise, monkeypatch):
    monkeypatch.setattr(type(pipe.detector), "predict", lambda *_: pytest.fail("the detector was asked"))
    with pytest.raises(NotASliceError):
        pipe(noise)


def test_it_can_be_switched_off(pipe, checked, noise):
    result = pipe(noise, check_input=False)
    assert result.label == "tumor" and result.milliseconds["check"] == 0
    unchecked = load_pipeline(*checked, device="cpu", check_input=False)
    assert unchecked(noise).label == "tumor"
    unchecked.check([np.asarray(Image.open(noise).convert("RGB"))], ["noise"])  # refuses nothing either


def test_without_the_files_there_is_no_check(tiny_runs, noise):
    pipe = load_pipeline(*tiny_runs, device="cpu")
    assert pipe.input_check is None and pipe(noise).milliseconds["check"] == 0


@pytest.mark.parametrize("broken", ["cut weights", "no weights", "no settings", "no JSON", "key", "network", "text"])
def test_damaged_files_are_one_sentence(checked, tmp_path, broken):
    detector = shutil.copytree(checked[0], tmp_path / "detector")
    settings, weights = detector / INPUT_CHECK, detector / INPUT_CHECK_WEIGHTS
    record = json.loads(settings.read_text())
    if broken == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif broken == "no weights":
        weights.unlink()
    elif broken == "no settings":
        settings.unlink()
    elif broken == "no JSON":
        settings.write_text("{")
    elif broken == "key":
        write_json(settings, {key: value for key, value in record.items() if key != "threshold"})
    elif broken == "network":
        write_json(settings, record | {"architecture": "resnet18"})
    else:
        write_json(settings, record | {"threshold": "large"})
    with pytest.raises(BthubError, match="input check in .* cannot be used .*: restore both files") as caught:
        load_pipeline(detector, checked[1], device="cpu")
    assert "\n" not in str(caught.value)


# -- on the command line


def test_the_command_goes_on_after_a_refused_picture(checked, kaggle, noise, capsys):
    stages = ["--detector", str(checked[0]), "--localizer", str(checked[1])]
    first, second = map(str, slices_of(kaggle)[:2])
    assert cli.main(["predict", str(noise), first, str(noise), second, "--json", *stages]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["file"] for row in rows] == [first, second]
    for row in rows:
        times = row["milliseconds"]
        assert times["read"] > 0 and times["check"] > 0
        assert times.pop("total") == pytest.approx(sum(times.values()), abs=0.01)
    said = [line for line in err.splitlines() if line.startswith("bthub: ")]
    assert said == [f"bthub: {noise}: " + said[0].partition(".png: ")[2]] * 2

    assert cli.main(["predict", str(noise), *stages]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "doesn't look like a slice" in err

    assert cli.main(["predict", str(noise), "--json", "--no-input-check", *stages]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["milliseconds"]["check"] == 0 and "doesn't look" not in err


# -- outside pictures


def test_the_outside_pictures_are_fixed_and_halved(pictures):
    again = ood_images.outside_pictures()
    assert [(p.name, p.kind, p.half) for p in again] == [(p.name, p.kind, p.half) for p in pictures]
    assert all(np.array_equal(p.image, q.image) for p, q in zip(pictures, again, strict=True))
    assert len({p.name for p in pictures}) == len(pictures) >= 100
    assert all(p.image.mode == "RGB" for p in pictures)
    halves = Counter(p.half for p in pictures)
    assert min(halves.values()) > 0.4 * len(pictures)
    for kind in {p.kind for p in pictures}:
        assert {p.half for p in pictures if p.kind == kind} == {ood_images.CHOOSE, ood_images.REPORT}
    # What comes from one file or one drawing is in one half.
    half_of = {}
    for p in pictures:
        origin = p.name.removesuffix(" in gray").rstrip(" 12")
        assert half_of.setdefault((p.kind, origin), p.half) == p.half, p.name


def test_a_missing_file_is_named(monkeypatch):
    installed = ood_images._installed
    gone = {"skimage/data/moon.png", "sklearn/datasets/images/china.jpg"}
    monkeypatch.setattr(
        ood_images, "_installed", lambda package, file: None if file in gone else installed(package, file)
    )
    with pytest.raises(BthubError, match="2 of the .*moon.png of scikit-image.*china.jpg of scikit-learn"):
        ood_images.outside_pictures()


def test_a_package_that_is_missing_is_a_missing_file():
    assert ood_images._installed("no-such-package", "x.png") is None
    assert ood_images._installed("scikit-image", "skimage/data/nothing.png") is None


# -- fitting


@pytest.fixture(scope="module", name="script")
def input_check_script():
    return ood_check


def test_fitting_leaves_a_check_and_what_was_measured(script, tiny_runs, tiny_lgg, tmp_path, monkeypatch, capsys):
    from bthub.data.dataset import load_split

    run = shutil.copytree(tiny_runs[0], tmp_path / "detector")
    torch.manual_seed(0)
    network = timm.create_model(script.ARCHITECTURE)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(script, "REFERENCES", 8)
    arguments = ["--data", str(tiny_lgg), "--run", str(run), "--weights", str(tmp_path / "weights.safetensors")]
    monkeypatch.setattr(sys, "argv", ["input_check.py", *arguments])
    (run / ONNX_INPUT_CHECK).parent.mkdir(exist_ok=True)
    (run / ONNX_INPUT_CHECK).write_bytes(b"of an older check")
    script.main()
    assert not (run / ONNX_INPUT_CHECK).exists()

    record = json.loads((run / INPUT_CHECK).read_text())
    rows = {split: load_split(tiny_lgg, split) for split in ("train", "validation", "test")}
    assert record["data"] == [{"dataset": "lgg", "split": s, **describe_rows(rows[s])} for s in rows]
    assert record["references"] == 8 < 2 * len(rows["train"])
    counts = {(e["split"], e["colors"]): e["samples"] for e in record["slices"]}
    assert counts == {(s, c): len(rows[s]) for s in ("validation", "test") for c in LGG_VIEWS}
    said = capsys.readouterr().out
    assert f"threshold {record['threshold']:.4f}" in said and str(tmp_path) not in (run / INPUT_CHECK).read_text()

    # The threshold is where all but a share of each validation split passes; what was counted is what the check does.
    check = load_input_check(run / INPUT_CHECK, run / INPUT_CHECK_WEIGHTS)
    for colors in LGG_VIEWS:
        images = [show(row["image"].convert("RGB"), colors) for row in rows["validation"]]
        distances = check.distances(describe(check.network, images, check.size))
        assert np.quantile(distances, script.PASSED) <= check.threshold + 2e-3
    # FLAIR in gray is told from the other sequences by a linear layer, which is right on what it was fitted on.
    assert check.kinds == (FLAIR_LIKE, OTHER_MRI)
    for name in SEQUENCES:
        images = [show(row["image"].convert("RGB"), name) for row in rows["train"]]
        found = [kind for _, kind in check.inspect(images)]
        assert np.mean([kind == (FLAIR_LIKE if name == FLAIR_ALONE else OTHER_MRI) for kind in found]) > 0.6, name
    for half in (ood_images.CHOOSE, ood_images.REPORT):
        assert record["outside"][half][ood_images.PHOTOGRAPH]["samples"] > 10


def test_references_are_spread_over_what_there_is(script):
    crowd = torch.cat([torch.zeros(50, 2), torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])])
    taken = script.spread(crowd, 4)
    assert {tuple(row) for row in taken.tolist()} == {(0, 0), (9, 0), (0, 9), (9, 9)}
    assert len(script.spread(crowd, 100)) == len(crowd)


def test_wrong_weights_are_one_sentence(script, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    for path in (tmp_path / "other.safetensors", tmp_path / "nowhere.safetensors"):
        with pytest.raises(BthubError, match="bthub imagenet-weights"):
            script.load_network(path)


# -- the check that ships


@pytest.fixture(scope="module")
def shipped(shipped_runs) -> tuple[InputCheck, dict]:
    files = [shipped_runs[0] / name for name in (INPUT_CHECK, INPUT_CHECK_WEIGHTS)]
    return load_input_check(*files), json.loads(files[0].read_text())


def test_the_shipped_check_is_small_and_says_what_it_was_fitted_on(shipped, shipped_runs):
    _, record = shipped
    assert (shipped_runs[0] / INPUT_CHECK_WEIGHTS).stat().st_size < 9e6
    assert {e["split"] for e in record["data"]} == {"train", "validation", "test"}
    assert all(len(e["sha256"]) == 64 and e["rows"] > 0 for e in record["data"])
    rows = {(e["dataset"], e["split"]): e["rows"] for e in record["data"]}
    for entry in record["slices"]:
        assert entry["samples"] == rows[entry["dataset"], entry["split"]]


def test_the_shipped_check_lets_slices_pass(shipped):
    """Fewer than one in a hundred is refused, of each data set and split."""
    _, record = shipped
    for entry in record["slices"]:
        assert entry["refused"] < 0.01 * entry["samples"], entry


def test_the_shipped_check_refuses_what_it_says(shipped, pictures):
    check, record = shipped
    found = {half: {} for half in (ood_images.CHOOSE, ood_images.REPORT)}
    passed = []
    for one in pictures:
        ((accepted, _),) = check.inspect([one.image])
        count = found[one.half].setdefault(one.kind, {"samples": 0, "refused": 0})
        count["samples"] += 1
        count["refused"] += not accepted
        passed += [one.name] * accepted
    assert found == record["outside"] and passed == record["outside_accepted"]
    for half, kinds in found.items():
        samples, refused = (sum(n[key] for n in kinds.values()) for key in ("samples", "refused"))
        assert refused > 0.85 * samples, half
        assert kinds[ood_images.PHOTOGRAPH]["refused"] >= 0.9 * kinds[ood_images.PHOTOGRAPH]["samples"]


def test_the_shipped_check_lets_real_slices_pass(shipped, kaggle):
    check, _ = shipped
    paths = [*slices_of(kaggle), *sorted((ROOT / "space" / "examples").glob("*.png"))]
    images = [Image.open(path).convert("RGB") for path in paths]
    turned = [image.transpose(Image.Transpose.ROTATE_90) for image in images[:4]]
    assert all(fine for fine, _ in check.inspect([*images, *turned]))


def test_the_shipped_check_lets_a_slice_from_elsewhere_pass(shipped):
    """Matplotlib brings one slice of a head, from none of the data sets."""
    check, _ = shipped
    path = Path(matplotlib.get_data_path()) / "sample_data" / "s1045.ima.gz"
    pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint16).reshape(256, 256)
    assert check.inspect([Image.fromarray(read_image(pixels))])[0][0]


def test_a_cat_is_refused_by_the_shipped_pipeline(shipped_runs):
    import skimage

    pipe = load_pipeline(*shipped_runs, device="cpu")
    cat = Path(skimage.__file__).parent / "data" / "chelsea.png"
    with pytest.raises(NotASliceError, match="chelsea.png"):
        pipe(cat)
    assert pipe(cat, check_input=False).width == 451
