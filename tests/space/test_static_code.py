"""The static page's arithmetic in Node.js: pixels and what the networks see, the same digits as in Python."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bthub.imaging.image_io import read_image
from bthub.imaging.kinds import OTHER_MRI, ROUGH, has_color, is_drawing
from bthub.inference.backends import stages

SPACE = Path(__file__).parents[2] / "space"
CODE = """
import fs from "node:fs";
import { readPicture } from "./picture.js";
import { checkPixels, detectorPixels, hasColor, isDrawing, localizerPixels, maskOf } from "./stages.js";
const bytes = (name) => new Uint8Array(fs.readFileSync(name)).buffer;
const found = {};
for (const name of JSON.parse(fs.readFileSync("names.json"))) {
  const image = await readPicture(bytes(`${name}.png`));
  const logits = new Float32Array(bytes("logits"));
  fs.writeFileSync(`${name}.rgb`, image.data);
  fs.writeFileSync(`${name}.detector`, detectorPixels(image, 256));
  fs.writeFileSync(`${name}.localizer`, localizerPixels(image, 256));
  fs.writeFileSync(`${name}.check`, checkPixels(image, 128));
  const { mask, area } = maskOf(logits, 64, image, { threshold: 0.5, min_area_share: 0.001 });
  fs.writeFileSync(`${name}.mask`, mask);
  found[name] = { width: image.width, height: image.height, color: hasColor(image), area };
  found[name].drawing = isDrawing(image);
}
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def pictures() -> dict[str, Image.Image]:
    image = Image.open(SPACE / "examples" / "TCGA_DU_5871_19941206_22.png").convert("RGB")
    gray = np.asarray(image.getchannel(1))
    return {
        "color": image,
        "large": image.resize((700, 611)),
        "narrow": image.crop((40, 0, 216, 256)),
        "small": image.resize((37, 41)),
        "gray": Image.fromarray(gray),
        "deep": Image.fromarray(gray.astype(np.uint16) * 16 + 7),
        "palette": image.quantize(64),
        "few": image.quantize(12),
        "alpha": Image.merge("RGBA", [*image.split(), Image.fromarray(gray)]),
        "gray-alpha": Image.merge("LA", [Image.fromarray(gray), Image.fromarray(255 - gray)]),
        "bit": Image.fromarray(gray > 90),
        "mask": Image.fromarray(np.pad(np.full((30, 40), 255, np.uint8), 80)).resize((150, 150)),
        "labels": Image.fromarray(np.repeat(np.repeat(np.arange(0, 250, 50, dtype=np.uint8)[None], 90, 0), 30, 1)),
        "toned": Image.merge("RGB", [Image.fromarray((gray * tint).astype(np.uint8)) for tint in (1.0, 0.9, 0.7)]),
    }


def test_the_same_digits(pictures, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("there is no Node.js here: apt-get install nodejs")
    for name in ("picture.js", "stages.js", "resize.js"):
        shutil.copyfile(SPACE / "browser" / name, tmp_path / name)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "names.json").write_text(json.dumps(list(pictures)))
    rng = np.random.default_rng(0)
    logits = np.kron(rng.normal(0, 3, (1, 1, 16, 16)), np.ones((4, 4))).astype(np.float32)
    logits.tofile(tmp_path / "logits")
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
    (tmp_path / "test.js").write_text(CODE)
    done = subprocess.run(["node", "test.js"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    localizer = stages.LightLocalizer(lambda pixels: logits, 64, 0.001)
    for name in pictures:
        image = read_image(tmp_path / f"{name}.png")
        picture = Image.fromarray(image)
        assert np.array_equal(np.fromfile(tmp_path / f"{name}.rgb", np.uint8).reshape(image.shape), image), name
        for kind, expected in (
            ("detector", stages.detector_pixels(picture, 256)),
            ("localizer", stages.localizer_pixels(picture, 256)),
            ("check", stages.check_pixels(picture, 128)),
        ):
            values = np.fromfile(tmp_path / f"{name}.{kind}", np.float32)
            assert np.array_equal(values.reshape(expected.shape), expected), (name, kind)
        (mask,) = localizer.masks([picture])
        other = np.fromfile(tmp_path / f"{name}.mask", np.uint8).reshape(mask.shape) > 0
        assert (mask != other).mean() < 2e-4 and abs(int(mask.sum()) - found[name]["area"]) <= 2e-4 * mask.size
        assert found[name]["color"] == has_color(picture), name
        assert found[name]["drawing"] == is_drawing(image) == (name in ("bit", "labels", "mask")), name
        assert (found[name]["width"], found[name]["height"]) == picture.size


def test_the_page_calls_the_same_outlines_rough() -> None:
    page = (SPACE / "browser" / "app.js").read_text(encoding="utf-8")
    assert f'"{ROUGH}"' in page and f'found.input_kind === "{OTHER_MRI}"' in page
