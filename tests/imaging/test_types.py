"""The same values give the same picture, whether they come as an array or in a file, in every type that has them."""

import io
import warnings
from itertools import product

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from bthub.errors import BthubError
from bthub.imaging.image_io import read_image

TYPES = [np.dtype(kind) for kind in "u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8".split()]
# Compressed, these go through libtiff and Pillow; the others are refused.
PACKED = [np.dtype(kind) for kind in "u1 i1 u2 i2 u4 i4 f4".split()]


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def outcome(source: object) -> np.ndarray | str:
    """The picture, or what it is refused for."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return read_image(source)
    except BthubError as error:
        return str(error).partition(": ")[2]


def same(content: bytes, samples: np.ndarray) -> bool:
    """Whether file and array come to the same. Returns whether they are a picture."""
    found, expected = outcome(content), outcome(samples)
    if isinstance(expected, str):
        assert found == expected
        return False
    np.testing.assert_array_equal(found, expected)
    return True


def of_type(dtype: np.dtype) -> st.SearchStrategy[np.ndarray]:
    """Small gray or color samples over all that a type holds, its ends among them."""
    shapes = st.tuples(st.integers(16, 20), st.integers(16, 20), st.sampled_from([None, 3])).map(
        lambda shape: tuple(filter(None, shape))
    )
    if dtype.kind == "f":
        elements = npst.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    else:
        ends = np.iinfo(dtype)
        elements = st.one_of(
            npst.from_dtype(dtype), st.sampled_from([ends.min, ends.max, 0, 1, ends.max // 2 + 1, min(ends.max, 257)])
        )
    return npst.arrays(dtype, shapes, elements=elements, fill=elements)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("order", "<>")
def test_a_file_is_read_as_the_array_of_its_values(dtype, order):
    @settings(max_examples=25, deadline=None)
    @given(samples=of_type(dtype))
    def check(samples):
        photometric = "rgb" if samples.ndim == 3 else "minisblack"
        same(tiff(samples.astype(dtype.newbyteorder(order)), photometric=photometric, byteorder=order), samples)

    check()


def ramp(dtype: np.dtype, channels: int = 1) -> np.ndarray:
    """A picture that uses the whole of a type: both of its ends, and what lies between."""
    if dtype.kind == "f":
        ends = (-3.0, 5.0)
    else:
        ends = np.iinfo(dtype).min, np.iinfo(dtype).max
    shares = np.random.default_rng(0).random((24, 30, channels)).cumsum(axis=0) / 24
    shares[0, :15], shares[0, 15:] = 0, 1
    whole = np.asarray(ends[0], np.longdouble) + np.longdouble(shares) * (np.longdouble(ends[1]) - ends[0])
    return np.clip(whole, *ends).astype(dtype)[..., slice(None) if channels > 1 else 0]


@pytest.mark.parametrize(
    ("dtype", "order", "compression", "predictor"),
    [
        (dtype, order, compression, predictor)
        for dtype, order, compression, predictor in product(PACKED, "<>", ["zlib", "lzma"], [None, 2])
        if predictor is None or dtype.kind != "f"
    ],
    ids=str,
)
def test_a_compressed_file_is_read_as_the_array_or_refused(dtype, order, compression, predictor):
    samples = ramp(dtype)
    ordered = samples.astype(dtype.newbyteorder(order))
    content = tiff(ordered, compression=compression, byteorder=order, predictor=predictor)
    found = outcome(content)
    if isinstance(found, str):
        assert "compressed TIFF" in found or "cannot be read" in found
        assert (dtype, order) not in [(np.dtype(kind), "<") for kind in ("u1", "u2", "i1", "u4", "f4")]
    else:
        np.testing.assert_array_equal(found, read_image(samples))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_white_is_zero_in_every_type(dtype):
    samples = ramp(dtype)
    if dtype.kind == "u":
        samples -= samples.min()
    turned = samples.max() - samples.astype(np.longdouble if dtype.itemsize > 4 else np.float64)
    expected = read_image(turned.astype(np.uint64 if dtype.kind in "iu" else dtype))
    found = read_image(tiff(samples, photometric="miniswhite"))
    assert np.abs(found.astype(int) - expected).max() <= (1 if dtype.kind == "f" else 0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_picture_does_not_depend_on_the_type(dtype):
    """A gradient over all of a type's range looks like a gradient over all of another's."""
    reference = read_image(ramp(np.dtype("u2")).astype(np.float64))
    assert np.abs(read_image(ramp(dtype)).astype(int) - reference).max() <= 2


@pytest.mark.parametrize("offset", [0, 2**31, 2**62])
def test_a_large_offset_loses_nothing(offset):
    samples = (np.arange(40 * 50).reshape(40, 50) * 3 - 700).astype(np.int64)
    np.testing.assert_array_equal(read_image(samples + offset), read_image(samples))


@settings(max_examples=60, deadline=None)
@given(
    samples=npst.arrays(np.uint8, st.tuples(st.integers(16, 24), st.integers(16, 24), st.just(4))),
    mode=st.sampled_from(["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "I", "F", "I;16"]),
)
def test_every_mode_of_pillow(samples, mode):
    image = Image.fromarray(samples[..., :3])
    image = image.convert("L").convert(mode) if mode in ("I", "F", "I;16") else image.convert("RGBA").convert(mode)
    found = outcome(image)
    if isinstance(found, str):
        assert "blank" in found or "transparent" in found
    else:
        assert found.shape == (*samples.shape[:2], 3) and found.dtype == np.uint8


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_alpha_that_is_multiplied_in(mode):
    samples = np.random.default_rng(0).integers(0, 256, (20, 20, 4), np.uint8)
    straight = Image.fromarray(samples).convert(mode[:-1] + "A")
    difference = read_image(straight.convert(mode)).astype(int) - read_image(straight)
    assert np.abs(difference).max() <= 2


def test_lab_is_refused():
    assert "convert it to RGB" in outcome(Image.new("LAB", (20, 20)))


# -- what the fourth sample of a pixel is


def color(dtype: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (24, 30, 3)).astype(dtype) * (257 if dtype == "u2" else 1)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("extra", ["unspecified", "assocalpha"])
def test_a_fourth_sample_that_is_no_alpha_is_left_out(dtype, compression, extra):
    rgb = color(dtype)
    fourth = (
        np.zeros(rgb.shape[:2], dtype)
        if extra == "unspecified"
        else np.full(rgb.shape[:2], 65535 if dtype == "u2" else 255)
    )
    content = tiff(
        np.dstack([rgb, fourth]).astype(dtype), photometric="rgb", extrasamples=[extra], compression=compression
    )
    found = outcome(content)
    if isinstance(found, str):
        assert "cannot be read" in found and compression
    else:
        np.testing.assert_array_equal(found, read_image(rgb))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_two_channels_are_not_gray_with_alpha(dtype):
    two = color(dtype)[..., :2]
    assert "2 samples a pixel" in outcome(tiff(two, photometric="minisblack", planarconfig="contig"))


# -- several pictures behind one directory


def imagej_stack(samples: np.ndarray) -> bytes:
    """As ImageJ writes a large stack: one directory, the other slices straight behind the first."""
    count, height, width = samples.shape
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, samples[0], description=f"ImageJ=1.54f\nimages={count}\nslices={count}\nloop=false\n", metadata=None
    )

    assert buffer.getvalue().endswith(samples[0].tobytes())
    return buffer.getvalue() + samples[1:].tobytes()


STACK = np.random.default_rng(0).integers(0, 255, (5, 90, 100)).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_an_imagej_stack_of_one_directory_is_refused(dtype, tmp_path):
    content = imagej_stack(STACK.astype(dtype))
    assert "more than one frame" in outcome(content)
    path = tmp_path / "stack.tif"
    path.write_bytes(content)
    with Image.open(path) as image:
        assert image.n_frames == 1
        assert "more than one frame" in outcome(image)


def test_other_stacks_of_one_directory_are_refused():
    assert "more than one frame" in outcome(tiff(STACK, volumetric=True, tile=(16, 16, 16)))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, STACK, truncate=True)
    assert "more than one frame" in outcome(buffer.getvalue())


def test_one_slice_that_kept_the_description_of_its_stack_is_read():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, STACK[0], description="ImageJ=1.54f\nimages=5\nslices=5\n", metadata=None)
    np.testing.assert_array_equal(read_image(buffer.getvalue())[..., 0], STACK[0])


@example(position=0, value=255)
@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_a_damaged_byte_of_a_stack_never_makes_it_a_slice_with_a_warning(position, value):
    content = bytearray(imagej_stack(STACK[:, :20, :20].astype("u2")))
    content[position % len(content)] = value
    found = outcome(bytes(content))
    assert isinstance(found, str) or found.dtype == np.uint8
