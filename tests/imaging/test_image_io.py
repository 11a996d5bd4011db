"""bthub.imaging.image_io: the same picture comes out of every container, and what is no picture is refused."""

import array
import gzip
import http.server
import io
import mmap
import os
import struct
import threading
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from bthub.errors import BthubError
from bthub.imaging import fetch, image_io
from bthub.imaging.image_io import is_picture, read_image

SLICE = Path(__file__).parents[1] / "data/kaggle_3m/TCGA_HT_8018_19970411/TCGA_HT_8018_19970411_11.tif"
ORIENTATION = 274


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """A real slice cut to an odd, non-square size without symmetry: uint8 (201, 173, 3)."""
    return np.array(Image.open(SLICE))[20:221, 40:213]


@pytest.fixture(scope="module")
def gray(rgb) -> np.ndarray:
    return rgb[..., 1].copy()


def png16(samples: np.ndarray) -> bytes:
    """A 16-bit PNG of (H, W) or (H, W, 2-4), which Pillow cannot write; every row filtered by difference."""
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, width, 2 * channels)
    rows = np.diff(rows, axis=1, prepend=np.zeros((height, 1, 2 * channels), np.uint8))
    data = b"".join(b"\x01" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    )


def pillow(picture: np.ndarray | Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def write(folder: Path, content: bytes, name: str = "slice") -> Path:
    path = folder / name  # no suffix: the content alone decides
    path.write_bytes(content)
    return path


def three(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, axis=2)


def opaque(rgb: np.ndarray, full: int) -> np.ndarray:
    return np.dstack([rgb, np.full(rgb.shape[:2], full, rgb.dtype)])


def wide(samples: np.ndarray, factor: int) -> np.ndarray:
    return samples.astype(np.uint16) * factor


def planes(samples: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(samples, -1, 0))


COLOR_FILES = {
    "png": lambda x: pillow(x, "PNG"),
    "png rgba": lambda x: pillow(opaque(x, 255), "PNG"),
    "png 16 x257": lambda x: png16(wide(x, 257)),
    "png 16 x256": lambda x: png16(wide(x, 256)),
    "png 16 as is": lambda x: png16(wide(x, 1)),
    "png 16 rgba": lambda x: png16(opaque(wide(x, 257), 65535)),
    "bmp": lambda x: pillow(x, "BMP"),
    "webp": lambda x: pillow(x, "WEBP", lossless=True),
    "tiff": lambda x: pillow(x, "TIFF"),
    "tiff lzw": lambda x: pillow(x, "TIFF", compression="tiff_lzw"),
    "tiff deflate": lambda x: pillow(x, "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": lambda x: pillow(x, "TIFF", compression="packbits"),
    "tiff rgba": lambda x: pillow(opaque(x, 255), "TIFF"),
    "tiff tiled": lambda x: tiff(x, photometric="rgb", tile=(64, 64)),
    "tiff planes": lambda x: tiff(planes(x), photometric="rgb", planarconfig="separate"),
    "tiff 16": lambda x: tiff(wide(x, 257), photometric="rgb"),
    "tiff 16 big-endian": lambda x: tiff(wide(x, 257), photometric="rgb", byteorder=">"),
    "tiff 16 deflate": lambda x: tiff(wide(x, 257), photometric="rgb", compression="zlib"),
    "tiff 16 deflate big-endian": lambda x: tiff(wide(x, 257), photometric="rgb", compression="zlib", byteorder=">"),
    "tiff 16 rgba deflate": lambda x: tiff(
        opaque(wide(x, 257), 65535), photometric="rgb", extrasamples=["unassalpha"], compression="zlib"
    ),
    "tiff 16 planes": lambda x: tiff(planes(wide(x, 257)), photometric="rgb", planarconfig="separate"),
    "tiff 16 bigtiff": lambda x: tiff(wide(x, 257), photometric="rgb", bigtiff=True),
    "tiff float": lambda x: tiff((x / 255).astype(np.float32), photometric="rgb"),
    "tiff float64": lambda x: tiff(x / 255, photometric="rgb"),
}

GREY_FILES = {
    "png": lambda x: pillow(x, "PNG"),
    "png la": lambda x: pillow(Image.fromarray(x).convert("LA"), "PNG"),
    "png 16 x257": lambda x: png16(wide(x, 257)),
    "png 16 x256": lambda x: png16(wide(x, 256)),
    "png 16 as is": lambda x: png16(wide(x, 1)),
    "png 16 la": lambda x: png16(np.dstack([wide(x, 257), np.full(x.shape, 65535, np.uint16)])),
    "png palette": lambda x: pillow(Image.fromarray(x).convert("P"), "PNG"),
    "gif": lambda x: pillow(x, "GIF"),
    "bmp": lambda x: pillow(x, "BMP"),
    "tiff": lambda x: pillow(x, "TIFF"),
    "tiff white is zero": lambda x: tiff(255 - x, photometric="miniswhite"),
    "tiff 16 white is zero": lambda x: tiff(wide(255 - x, 257), photometric="miniswhite"),
    "tiff 16": lambda x: tiff(wide(x, 257)),
    "tiff 16 big-endian": lambda x: tiff(wide(x, 257), byteorder=">"),
    "tiff 16 deflate": lambda x: tiff(wide(x, 257), compression="zlib"),
    "tiff 16 deflate big-endian": lambda x: tiff(wide(x, 257), compression="zlib", byteorder=">"),
    "tiff int16": lambda x: tiff(x.astype(np.int16)),
    "tiff int32": lambda x: tiff(x.astype(np.int32)),
    "tiff float": lambda x: tiff((x / 255).astype(np.float32)),
    "tiff float deflate": lambda x: tiff((x / 255).astype(np.float32), compression="zlib"),
    "tiff float64": lambda x: tiff(x / 255),
    "tiff gray and alpha": lambda x: tiff(
        np.dstack([x, np.full_like(x, 255)]), photometric="minisblack", extrasamples=["unassalpha"]
    ),
}


@pytest.mark.parametrize("kind", COLOR_FILES)
def test_color_is_the_same_in_every_container(kind, rgb, tmp_path):
    image = read_image(write(tmp_path, COLOR_FILES[kind](rgb)))
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, rgb)


@pytest.mark.parametrize("kind", GREY_FILES)
def test_gray_is_the_same_in_every_container(kind, gray, tmp_path):
    np.testing.assert_array_equal(read_image(write(tmp_path, GREY_FILES[kind](gray))), three(gray))


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (lambda x: pillow(x, "JPEG", quality=95), 4),
        (lambda x: pillow(x, "WEBP", quality=95), 3),
        (lambda x: pillow(x, "TIFF", compression="jpeg"), 3),
        (lambda x: pillow(Image.fromarray(x).convert("CMYK"), "JPEG", quality=95), 1.5),
        (lambda x: pillow(Image.fromarray(x).convert("CMYK"), "TIFF"), 1),
        (lambda x: pillow(Image.fromarray(x).quantize(256), "PNG"), 3),
    ],
    ids=["jpeg", "webp", "tiff jpeg", "cmyk jpeg", "cmyk tiff", "palette"],
)
def test_lossy_color_is_nearly_the_same(content, tolerance, rgb, tmp_path):
    image = read_image(write(tmp_path, content(rgb)))
    assert image.shape == rgb.shape
    assert np.abs(image.astype(int) - rgb).mean() < tolerance


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.astype(np.uint16),
        lambda x: x.astype(np.uint16) * 257,
        lambda x: x.astype(">u2") * 257,
        lambda x: x.astype(np.int16),
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.float32),
        lambda x: x / 255,
        lambda x: (x / 255).astype(np.float16),
        lambda x: np.asfortranarray(x),
        lambda x: x[:, ::-1].copy()[:, ::-1],
        lambda x: Image.fromarray(x),
        lambda x: opaque(x, 255),
        lambda x: opaque(x / 255, 1),
        lambda x: opaque(wide(x, 257), 65535),
        lambda x: Image.fromarray(x).convert("RGBA"),
    ],
)
def test_color_arrays_and_pil_images(convert, rgb):
    tolerance = 1 if getattr(convert(rgb), "dtype", None) == np.float16 else 0
    np.testing.assert_allclose(read_image(convert(rgb)).astype(int), rgb, atol=tolerance)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x[..., None],
        lambda x: Image.fromarray(x),
        lambda x: Image.fromarray(x).convert("I"),
        lambda x: Image.fromarray(x).convert("F"),
        lambda x: Image.fromarray(wide(x, 257)),
        lambda x: Image.fromarray(wide(x, 257).astype(">u2")),
        lambda x: Image.fromarray(x).convert("P"),
    ],
)
def test_gray_arrays_and_pil_images(convert, gray):
    np.testing.assert_array_equal(read_image(convert(gray)), three(gray))


def test_a_phones_jpeg_with_a_preview_is_one_picture(rgb, tmp_path):
    picture = Image.fromarray(rgb)
    content = pillow(picture, "MPO", save_all=True, append_images=[picture.resize((40, 40))], quality=95)
    image = read_image(write(tmp_path, content))
    assert image.shape == rgb.shape and np.abs(image.astype(int) - rgb).mean() < 4


def test_bilevel(gray, tmp_path):
    bits = gray > 40
    expected = three(bits.astype(np.uint8) * 255)
    np.testing.assert_array_equal(read_image(bits), expected)
    for form in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(read_image(write(tmp_path, pillow(bits, form))), expected)


def test_the_result_is_not_shared_with_the_input(rgb):
    source = rgb.copy()
    image = read_image(source)
    image[:] = 0
    np.testing.assert_array_equal(source, rgb)


# -- more than 8 bits


def deep(samples: np.ndarray) -> np.ndarray:
    """The picture at 12 bits, 0-4000, with values between those that 8 bits have."""
    noise = np.random.default_rng(0).integers(0, 15, samples.shape)
    return np.minimum(samples.astype(np.uint16) * 4000 // 255 + noise, 4000).astype(np.uint16)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x, path: x,
        lambda x, path: x.astype(np.float64),
        lambda x, path: x.astype(np.int32) - 1000,
        lambda x, path: write(path, png16(x)),
        lambda x, path: write(path, tiff(x, photometric="rgb")),
        lambda x, path: write(path, tiff(x, photometric="rgb", compression="zlib")),
        lambda x, path: write(path, tiff(x.astype(np.float32), photometric="rgb")),
        lambda x, path: x[..., 1],
        lambda x, path: Image.fromarray(x[..., 1]),
        lambda x, path: write(path, png16(x[..., 1])),
        lambda x, path: write(path, tiff(x[..., 1])),
        lambda x, path: write(path, tiff(x[..., 1].astype(np.float32))),
    ],
)
def test_twelve_bits_are_neither_saturated_nor_dark(convert, rgb, tmp_path):
    samples = deep(rgb)
    image = read_image(convert(samples, tmp_path))
    reference = samples if (image[..., 0] != image[..., 1]).any() else three(samples[..., 1])
    assert (image == 255).mean() < 0.005
    assert image.max() == 255 and len(np.unique(image)) > 200
    # One line for the whole picture: the same value gives the same level, in proportion.
    low, high = np.percentile(reference, (0.1, 99.9))
    expected = np.clip((reference - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(image, expected, atol=0.51)


def test_a_single_hot_pixel_does_not_darken_the_picture(gray):
    samples = deep(gray)
    calm = read_image(samples).astype(int)
    samples[3, 3] = 65535
    hot = read_image(samples)
    hot[3, 3] = calm[3, 3]
    assert np.abs(hot - calm).max() <= 1


def test_a_sparse_deep_picture_keeps_its_content():
    samples = np.zeros((300, 300, 3), np.uint16)
    samples[100:112, 100:112, 1] = 3000  # fewer samples than the percentile leaves out
    image = read_image(samples)
    assert (image[100:112, 100:112, 1] == 255).all() and image[0, 0, 0] == 0


# -- alpha


def test_alpha_is_put_on_black(rgb, tmp_path):
    alpha = np.linspace(0, 255, rgb.shape[1]).astype(np.uint8)[None].repeat(len(rgb), axis=0)
    rgba = np.dstack([rgb, alpha])
    expected = rgb * (alpha / 255)[..., None]
    for source in (rgba, Image.fromarray(rgba), write(tmp_path, pillow(rgba, "PNG"))):
        np.testing.assert_allclose(read_image(source), expected, atol=0.51)
    np.testing.assert_allclose(read_image(write(tmp_path, png16(wide(rgba, 257)))), expected, atol=0.51)


def test_gray_alpha_and_palette_transparency(gray, tmp_path):
    alpha = np.where(np.arange(gray.shape[1]) < 60, 0, 255).astype(np.uint8)[None].repeat(len(gray), axis=0)
    expected = three(np.where(alpha == 0, 0, gray))
    la = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
    np.testing.assert_array_equal(read_image(write(tmp_path, pillow(la, "PNG"))), expected)
    deep_la = np.dstack([wide(gray, 257), wide(alpha, 257)])
    np.testing.assert_array_equal(read_image(write(tmp_path, png16(deep_la))), expected)

    palette = Image.fromarray(gray).convert("P")
    cut = np.where(gray == gray.max(), 0, gray)
    content = pillow(palette, "PNG", transparency=int(np.asarray(palette)[gray == gray.max()][0]))
    np.testing.assert_array_equal(read_image(write(tmp_path, content)), three(cut))


def test_what_is_transparent_does_not_set_the_window(rgb):
    rgba = opaque(deep(rgb), 65535)
    rgba[:40] = (65535, 65535, 65535, 0)
    cut = deep(rgb)
    cut[:40] = 0
    np.testing.assert_allclose(read_image(rgba).astype(int), read_image(cut), atol=1)


@pytest.mark.parametrize("name", ["rgba", "rgba 16"])
def test_transparency_takes_little_memory(rgb, name):
    """A whole picture in double precision would take gigabytes of an allowed file of 64 megapixels."""
    large = np.tile(rgb, (5, 6, 1))
    rgba = opaque(large, 128) if name == "rgba" else opaque(deep(large), 32768)
    tracemalloc.start()
    try:
        image = read_image(rgba)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert image.any() and peak < 20 * large.shape[0] * large.shape[1]


# -- orientation

_STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", _STORED)
def test_orientation_is_applied(orientation, rgb, tmp_path):
    stored = np.ascontiguousarray(_STORED[orientation](rgb))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    tag = [(ORIENTATION, 3, 1, orientation, True)]
    for content in (
        pillow(stored, "PNG", exif=exif),
        pillow(stored, "WEBP", exif=exif, lossless=True),
        pillow(stored, "TIFF", tiffinfo={ORIENTATION: orientation}),
        pillow(stored, "TIFF", tiffinfo={ORIENTATION: orientation}, compression="tiff_lzw"),
        tiff(wide(stored, 257), photometric="rgb", extratags=tag),
        tiff(wide(stored, 257), photometric="rgb", extratags=tag, compression="zlib"),
        tiff((stored / 255).astype(np.float32), photometric="rgb", extratags=tag),
    ):
        np.testing.assert_array_equal(read_image(write(tmp_path, content)), rgb)
    lossy = read_image(write(tmp_path, pillow(stored, "JPEG", exif=exif, quality=95)))
    assert lossy.shape == rgb.shape and np.abs(lossy.astype(int) - rgb).mean() < 4
    opened = Image.open(io.BytesIO(pillow(stored, "PNG", exif=exif)))
    np.testing.assert_array_equal(read_image(opened), rgb)


def xmp(orientation: int) -> bytes:
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="%d"/></x:xmpmeta>' % orientation


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG", "PNG packed"])
@pytest.mark.parametrize("tag", [None, 1, 3])
def test_what_exif_says_goes_before_xmp_as_pillow_has_it(rgb, tag, form):
    exif = Image.Exif()
    exif[271] = "a scanner"
    if tag is not None:
        exif[ORIENTATION] = tag
    options = {"xmp": xmp(6)}
    if form.startswith("PNG"):
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp(6).decode(), zip="packed" in form)
    content = pillow(rgb, form.split()[0], exif=exif, **options)
    opened = Image.open(io.BytesIO(content))
    theirs = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert theirs.shape == (rgb.shape if tag else rgb.swapaxes(0, 1).shape)
    np.testing.assert_array_equal(read_image(content), theirs)
    np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(content))), theirs)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(16, 90), width=st.integers(16, 90), orientation=st.sampled_from(list(_STORED)))
def test_any_size(height, width, orientation):
    picture = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(_STORED[orientation](picture)))
    opened = Image.open(io.BytesIO(pillow(stored, "PNG", exif=exif)))
    np.testing.assert_array_equal(read_image(opened), picture)


# -- refusals


def refused(source, capfd) -> str:
    """The sentence with which a picture is refused, after checking that it is one and all that is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of the test's own server
        with pytest.raises(BthubError) as info:
            read_image(source)
    sentence = str(info.value)
    assert "\n" not in sentence and len(sentence) < 400
    assert not caught, [str(w.message) for w in caught]
    assert capfd.readouterr() == ("", "")
    return sentence


def frames(form: str, **options) -> bytes:
    pages = [Image.effect_noise((40, 40), 60).convert("RGB") for _ in range(3)]
    return pillow(pages[0], form, save_all=True, append_images=pages[1:], **options)


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    )


NOISE = np.random.default_rng(1).integers(0, 256, (40, 40), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"just some text, no picture at all", "not a picture"),
        (b"<!doctype html><html></html>", "not a picture"),
        (b"PK\x03\x04" + bytes(100), "not a picture"),
        (b"%PDF-1.7\n" + bytes(100), "not a picture"),
        (pillow(NOISE, "PPM"), "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        (b"II*\0", "truncated or damaged"),
        (b"II*\0\xff\xff\xff\xff", "truncated or damaged"),
        (b"BM" + bytes(200), "truncated or damaged"),
        (png_header(9000, 9000), "too large"),
        (png_header(10**5, 10**5), "too large"),
        (png_header(2**31 - 1, 2**31 - 1), "too large"),
        (png_header(500, 500), "truncated or damaged"),
        (png_header(8, 500), "too small"),
        (png_header(16, 2000), "too elongated"),
        (frames("GIF"), "more than one frame"),
        (frames("TIFF"), "more than one frame"),
        (frames("PNG"), "more than one frame"),
        (frames("WEBP"), "more than one frame"),
        (tiff(np.random.default_rng(0).random((3, 40, 40)), photometric="minisblack"), "more than one frame"),
        (pillow(np.full((50, 60, 3), 77, np.uint8), "PNG"), "blank"),
        (pillow(np.full((50, 60), 0, np.uint8), "JPEG"), "blank"),
        (pillow(128 + (NOISE > 128).astype(np.uint8), "PNG"), "blank"),
        (png16(np.full((50, 60), 30000, np.uint16)), "blank"),
        (pillow(opaque(three(NOISE), 0), "PNG"), "fully transparent"),
        (tiff(np.where(NOISE == 7, np.nan, NOISE).astype(np.float32)), "NaN"),
        (tiff(np.where(NOISE == 7, np.inf, NOISE), photometric="minisblack"), "infinite"),
        (tiff(three(NOISE).astype(np.float32), photometric="rgb", compression="zlib"), "without compression"),
        (
            tiff(planes(wide(three(NOISE), 9)), photometric="rgb", planarconfig="separate", compression="zlib"),
            "without compression",
        ),
        (
            tiff(np.random.default_rng(0).random((40, 40, 5)), photometric="minisblack", planarconfig="contig"),
            "5 samples",
        ),
    ],
)
def test_bad_content_is_refused(content, expected, tmp_path, capfd):
    sentence = refused(write(tmp_path, content, "scan.png"), capfd)
    assert expected in sentence and "scan.png" in sentence


@pytest.mark.parametrize("kind", COLOR_FILES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_refused(kind, share, rgb, tmp_path, capfd):
    content = COLOR_FILES[kind](rgb)
    sentence = refused(write(tmp_path, content[: int(len(content) * share)], "cut.dat"), capfd)
    assert "cut.dat: the picture is truncated or damaged" in sentence


def test_a_truncated_jpeg_and_gif_are_refused(rgb, tmp_path, capfd):
    for form in ("JPEG", "GIF"):
        content = pillow(rgb, form)
        for size in (20, len(content) // 2, len(content) - 20):
            assert "truncated or damaged" in refused(write(tmp_path, content[:size]), capfd)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of the damage it finds
def test_flipped_bytes_never_raise_anything_else(rgb, tmp_path):
    """A small deterministic fuzz over the headers of every container."""
    random = np.random.default_rng(0)
    small = rgb[60:92, 60:100]
    for make in COLOR_FILES.values():
        for _ in range(12):
            content = bytearray(make(small))
            for _ in range(random.integers(1, 4)):
                content[random.integers(min(len(content), 250))] = random.integers(256)
            try:
                image = read_image(write(tmp_path, bytes(content)))
            except BthubError:
                continue
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def test_a_picture_larger_than_the_limit_of_bytes_is_refused(tmp_path, capfd):
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate(image_io.MAX_FILE_BYTES + 1)  # sparse
    assert "too large" in refused(path, capfd)


def test_paths_that_are_no_files_are_refused(tmp_path, capfd):
    assert "is a folder" in refused(tmp_path, capfd)
    assert "no such file" in refused(tmp_path / "missing.png", capfd)
    assert "cannot be read" in refused("a\0b.png", capfd)
    assert "cannot be read" in refused("a" * 5000, capfd)
    assert "a\\nb.png: no such file" in refused(str(tmp_path / "a\nb.png"), capfd)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe", capfd)


def test_a_file_without_permission_is_refused(rgb, tmp_path, capfd, monkeypatch):
    path = write(tmp_path, pillow(rgb, "PNG"), "secret.png")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fetch, "open", denied, raising=False)  # root reads everything
    assert "secret.png: permission" in refused(path, capfd)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((3, 64, 64), np.uint8), "move the channels last"),
        (np.zeros((64, 64, 2), np.uint8), "expected shape"),
        (np.zeros(64, np.uint8), "expected shape"),
        (np.zeros((2, 64, 64, 3), np.uint8), "expected shape"),
        (np.zeros((0, 0), np.uint8), "too small"),
        (np.zeros((64, 64), complex), "complex"),
        (np.full((64, 64), "a"), "found <U1"),
        (np.zeros((64, 64)), "blank"),
        (np.where(NOISE == 7, np.nan, 0.5), "NaN"),
        (np.broadcast_to(np.uint8(1), (10**5, 10**5)), "too large"),
        (None, "NoneType"),
        (b"bytes", "bytes"),
    ],
)
def test_bad_arrays_are_refused(array, expected, capfd):
    assert expected in refused(array, capfd)


def test_nearly_empty_slices_of_the_set_are_not_blank():
    """Above the head a slice is noise of a few levels; it is still a slice."""
    noise = np.random.default_rng(0).normal(1.5, 0.9, (256, 256, 3))
    read_image(np.clip(np.rint(noise), 0, 4).astype(np.uint8))


# -- URLs


class _Handler(http.server.BaseHTTPRequestHandler):
    content = pillow(three(NOISE), "PNG")

    def do_GET(self):  # noqa: N802
        self.hits.append(self.path)
        name = self.path.partition("?")[0]
        if name == "/loop":
            return self.answer(302, Location="/loop")
        if name.startswith("/far"):
            return self.answer(302, Location=name + "r")
        if name == "/once":
            return self.answer(302, Location="/slice.png")
        if name == "/local":
            return self.answer(302, Location=f"file://{SLICE}")
        if name == "/ftp":
            return self.answer(302, Location="ftp://127.0.0.1/slice.png")
        if name == "/page":
            return self.answer(200, b"<html>sign in</html>")
        if name == "/cut":
            return self.answer(200, self.content[:500], **{"Content-Length": str(len(self.content))})
        if name == "/endless":
            self.answer(200)
            try:
                while True:
                    self.wfile.write(bytes(2**20))
            except OSError:
                return None
        if name == "/slice.png":
            return self.answer(200, self.content)
        return self.answer(404)

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    handler = type("Handler", (_Handler,), {"hits": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        server.hits = handler.hits
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


def test_a_url_is_read(server):
    np.testing.assert_array_equal(read_image(server.url + "/slice.png"), three(NOISE))
    np.testing.assert_array_equal(read_image(server.url + "/once"), three(NOISE))


def test_bad_urls_are_refused(server, capfd, monkeypatch):
    assert "HTTP 404" in refused(server.url + "/nothing", capfd)
    assert "not a picture" in refused(server.url + "/page", capfd)
    assert "broke off after 500" in refused(server.url + "/cut", capfd)
    assert "not allowed" in refused(server.url + "/local", capfd)
    assert "not http or https" in refused(server.url + "/ftp", capfd)
    for endless in ("/loop", "/far"):
        server.hits.clear()
        assert "download failed" in refused(server.url + endless, capfd)
        assert len(server.hits) <= fetch.MAX_REDIRECTS + 1
    monkeypatch.setattr(fetch, "MAX_FILE_BYTES", 3 * 2**20)
    assert "too large" in refused(server.url + "/endless", capfd)
    sentence = refused(server.url + "/nothing?token=secret", capfd)
    assert "secret" not in sentence and server.url in sentence


def test_a_download_ends_in_time(server, capfd, monkeypatch):
    monkeypatch.setattr(fetch, "DOWNLOAD_SECONDS", 0.2)
    monkeypatch.setattr(fetch, "MAX_FILE_BYTES", 2**40)
    assert "more than 0.2 seconds" in refused(server.url + "/endless", capfd)


@pytest.mark.parametrize("url", ["ftp://host/a.png", "file:///etc/passwd", "gopher://x", "data://x"])
def test_other_schemes_are_refused(url, capfd):
    assert "only http:// and https://" in refused(url, capfd)


def test_a_host_that_does_not_answer_is_refused(capfd, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    assert "download failed" in refused("http://127.0.0.1:1/a.png", capfd)
    assert "download failed" in refused("http://[bad/a.png", capfd)


def broken_files(png: bytes):
    """Open files of which the middle, or the checksum, is broken."""
    yield gzip.open(io.BytesIO(gzip.compress(png)[:-20]))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", png)
    yield zipfile.ZipFile(io.BytesIO(packed.getvalue().replace(png[:50], png[:40] + b"broken####"))).open("a.png")

    class Odd(io.RawIOBase):
        def read(self, size=-1):
            raise RuntimeError("gone")

    yield Odd()


def test_open_files_that_break_are_one_sentence(rgb):
    for file in broken_files(pillow(rgb, "PNG")):
        with pytest.raises(BthubError, match="the open file cannot be read \\("):
            read_image(file)


def test_pipes_uploads_maps_and_buffers(rgb, tmp_path):
    png = pillow(rgb, "PNG")
    (tmp_path / "a.png").write_bytes(png)

    class Pipe(io.RawIOBase):  # unbuffered: gives what is there
        left = io.BytesIO(png)

        def readable(self):
            return True

        def readinto(self, into):
            return self.left.readinto(memoryview(into)[:1000])

    class Upload:  # as Starlette's
        file = io.BytesIO(png)

        async def read(self, size=-1):
            raise AssertionError

    with open(tmp_path / "a.png", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for source in (Pipe(), Upload(), mapped, mapped, array.array("B", png), file, file):
            assert is_picture(source) and np.array_equal(read_image(source), rgb)
    with pytest.raises(BthubError, match="the open file cannot be read"):
        read_image(mapped)
    assert not is_picture([png]) and not is_picture(iter([png]))


def test_nobody_elses_words_leave_a_reader(tmp_path):
    """Of a TIFF whose last tag is cut short Pillow warns; the filters are as before, in threads too."""
    import subprocess
    import sys

    lines = np.arange(40 * 40, dtype=np.uint8).reshape(40, 40)
    file = tmp_path / "cut.tif"
    file.write_bytes(pillow(Image.fromarray(lines > 90), "TIFF", compression="group4")[:-1])
    code = (
        "import sys, threading, warnings\n"
        "from bthub.errors import BthubError\n"
        "from bthub.imaging.image_io import read_image\n"
        "before = list(warnings.filters)\n"
        "def read():\n"
        "    for _ in range(50):\n"
        "        try: read_image(sys.argv[1])\n"
        "        except BthubError: pass\n"
        "threads = [threading.Thread(target=read) for _ in range(4)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "assert warnings.filters == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_image_that_was_closed_is_said_to_be(tmp_path):
    path = tmp_path / "slice.png"
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(path)
    with Image.open(path) as never_loaded:
        pass
    with Image.open(path) as loaded:
        loaded.load()
    loaded.close()
    with path.open("rb") as file:
        of_closed_file = Image.open(file)
    for image in (never_loaded, loaded, of_closed_file):
        with pytest.raises(BthubError, match="the image is closed"):
            read_image(image)


def test_what_only_promises_a_path_is_refused():
    class Broken:
        def __fspath__(self):
            return 3

    with pytest.raises(BthubError, match="this Broken isn't a path"):
        read_image(Broken())
