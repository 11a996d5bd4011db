"""Files that people hand in: sound ones of every kind, odd ones, damaged ones, and what isn't a picture at all.

Each is made by code, from noise that stands for a slice. `says` is a part of the sentence that refuses it, "" where it
is read; `data build`, which also takes what is blank, transparent or tiny, may answer otherwise. `docs/pictures.md` is
their table: `python tests/corpus/table.py` writes it.
"""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

_RANDOM = np.random.default_rng(7)
GRAY = np.clip(np.add.outer(np.hanning(72), np.hanning(60)) * 120 + _RANDOM.normal(0, 12, (72, 60)), 0, 255).astype(
    "u1"
)
RGB = np.dstack([GRAY, np.roll(GRAY, 5, 0), 255 - GRAY])
DEEP = GRAY.astype("u2") * 16 + _RANDOM.integers(0, 16, GRAY.shape).astype("u2")
STACK = np.stack([np.roll(GRAY, i, 1) for i in range(5)])


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: of the file.
        what: it is, for the table.
        content: its bytes.
        says: a part of the sentence that refuses it, "" where it is read.
        builds: likewise in `data build`; None: the same.
    """

    name: str
    what: str
    content: bytes
    says: str = ""
    builds: str | None = None


def pillow(picture: np.ndarray | Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, form, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **{"metadata": None, **options})
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(kind: bytes, body: bytes, after: int = 33) -> bytes:
    png = pillow(RGB, "PNG")
    return png[:after] + chunk(kind, body) + png[after:]


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 99))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def png16(samples: np.ndarray) -> bytes:
    height, width, channels = (*samples.shape, 1)[:3]
    rows = samples.astype(">u2").tobytes()
    step = width * channels * 2
    data = b"".join(b"\0" + rows[i : i + step] for i in range(0, len(rows), step))
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def retagged(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a short tag."""
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    for start in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, start)[0] == tag:
            return content[: start + 8] + struct.pack("<H", value) + content[start + 10 :]
    raise ValueError(f"there is no tag {tag}")


def big_tiff_page(at: int) -> bytes:
    """A BigTIFF whose directory lies so far beyond its end that no C library can count to it."""
    content = tiff(RGB, photometric="rgb", bigtiff=True)
    return content[:8] + struct.pack("<Q", at) + content[16:]


def big_tiff_next(at: int) -> bytes:
    """Likewise, of which the second page's directory does."""
    content = tiff(RGB, photometric="rgb", bigtiff=True)
    (first,) = struct.unpack_from("<Q", content, 8)
    (count,) = struct.unpack_from("<Q", content, first)
    end = first + 8 + 20 * count
    return content[:end] + struct.pack("<Q", at) + content[end + 8 :]


def imagej_stack() -> bytes:
    return tiff(STACK[0], description="ImageJ=1.54f\nimages=5\nslices=5\nloop=false\n") + STACK[1:].tobytes()


def frames(form: str, **options) -> bytes:
    pages = [Image.fromarray(one) for one in STACK]
    return pillow(pages[0], form, save_all=True, append_images=pages[1:], **options)


def jpeg(edit: Callable[[bytearray], None] | None = None, **options) -> bytes:
    content = bytearray(pillow(RGB, "JPEG", **{"quality": 95, **options}))
    if edit is not None:
        edit(content)
    return bytes(content)


def twelve_bits(content: bytearray) -> None:
    at = content.index(b"\xff\xc0")
    content[at + 1], content[at + 4] = 0xC1, 12


def frame_of(marker: int) -> Callable[[bytearray], None]:
    def edit(content: bytearray) -> None:
        content[content.index(b"\xff\xc0") + 1] = marker

    return edit


def bitmap5() -> bytes:
    """A BMP with a fourth byte a pixel that is named alpha and that nobody set."""
    height, width, _ = RGB.shape
    rows = np.dstack([RGB[::-1, :, ::-1], np.zeros(GRAY.shape, "u1")]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, len(rows), 2835, 2835, 0, 0)
    header += struct.pack("<IIII4s", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs") + bytes(64)
    return struct.pack("<2sIHHI", b"BM", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


def exif(**tags: int) -> Image.Exif:
    data = Image.Exif()
    for tag, value in tags.items():
        data[int(tag[1:])] = value
    return data


def text(value: str, packed: bool) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", value, zip=packed)
    return info


def flipped(content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + bytes(b ^ 0xFF for b in content[start:stop]) + content[stop:]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("slice.png", pillow(RGB, "PNG"))
    return buffer.getvalue()


ALPHA = np.dstack([RGB, np.full(GRAY.shape, 255, "u1")])
CLEAR = np.dstack([RGB, np.zeros(GRAY.shape, "u1")])
PNG, TIF, JPG = pillow(RGB, "PNG"), tiff(RGB, photometric="rgb"), jpeg()
PACKED = tiff(RGB, photometric="rgb", compression="zlib", rowsperstrip=72)
NOT, DAMAGED, FRAMES = "this is not a picture that can be read but ", "truncated or damaged", "more than one frame"
BAD_EXIF = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(6)

CASES = (
    # Sound ones.
    Case("gray.png", "gray PNG", pillow(GRAY, "PNG")),
    Case("color.png", "color PNG", PNG),
    Case("palette.png", "PNG with a palette", pillow(Image.fromarray(RGB).quantize(64), "PNG")),
    Case("bits.png", "black and white PNG", pillow(GRAY > 90, "PNG")),
    Case("four-bits.png", "PNG of 4 bits", pillow(Image.fromarray(GRAY).quantize(16), "PNG", bits=4)),
    Case("alpha.png", "PNG with an opaque alpha channel", pillow(ALPHA, "PNG")),
    Case("deep-gray.png", "16-bit gray PNG", png16(DEEP)),
    Case("deep-color.png", "16-bit color PNG", png16(RGB.astype("u2") * 16)),
    Case("deep-alpha.png", "16-bit PNG with alpha", png16(ALPHA.astype("u2") * 257)),
    Case("deep-gray-alpha.png", "16-bit gray PNG with alpha", png16(np.dstack([DEEP, np.full_like(DEEP, 65535)]))),
    Case("long-text.png", "PNG with 2 MB of text", pillow(RGB, "PNG", pnginfo=text("x" * 2**21, False))),
    Case(
        "packed-text.png",
        "PNG with 2 MB of compressed text",
        pillow(RGB, "PNG", pnginfo=text("x" * 2**21, True)),
        builds="a picture that training can't open",
    ),
    Case(
        "profile.png",
        "PNG with a color profile of 2 MB",
        pillow(RGB, "PNG", icc_profile=bytes(2**21)),
        builds="a picture that training can't open",
    ),
    Case("bad-exif.png", "PNG with damaged EXIF data", with_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
    Case("bad-animation.png", "PNG that says it is an animation of no frames", with_chunk(b"acTL", bytes(8))),
    Case("unknown-chunk.png", "PNG with a chunk nobody knows", with_chunk(b"abCd", b"private")),
    Case("after-the-end.png", "PNG with bytes after its end", PNG + b"left over" * 99),
    Case("turned.png", "PNG whose EXIF data turns it", pillow(RGB, "PNG", exif=exif(t274=6))),
    Case("named-wrongly.jpg", "PNG under a JPEG's name", PNG),
    Case("upper.TIF", "TIFF", TIF),
    Case("lzw.tif", "TIFF with LZW compression", pillow(RGB, "TIFF", compression="tiff_lzw")),
    Case("deflate.tif", "TIFF with deflate compression", PACKED),
    Case("packbits.tif", "TIFF with PackBits compression", pillow(RGB, "TIFF", compression="packbits")),
    Case("jpeg.tif", "TIFF with JPEG compression", pillow(RGB, "TIFF", compression="jpeg")),
    Case("fax.tif", "black and white TIFF with fax compression", pillow(GRAY > 90, "TIFF", compression="group4")),
    Case("big.tif", "BigTIFF", tiff(RGB, photometric="rgb", bigtiff=True)),
    Case("big-endian.tif", "big-endian 16-bit TIFF", tiff(DEEP, byteorder=">")),
    Case("tiles.tif", "TIFF in tiles", tiff(RGB, photometric="rgb", tile=(32, 32))),
    Case(
        "planes.tif",
        "TIFF with separate planes",
        tiff(np.moveaxis(RGB, 2, 0).copy(), photometric="rgb", planarconfig=2),
    ),
    Case("white-is-zero.tif", "TIFF in which 0 is white", tiff(255 - GRAY, photometric="miniswhite")),
    Case("signed-8.tif", "TIFF of signed 8-bit samples", tiff((GRAY.astype("i2") - 128).astype("i1"))),
    Case("signed-16.tif", "TIFF of signed 16-bit samples", tiff(DEEP.astype("i2") - 1000)),
    Case("unsigned-32.tif", "TIFF of 32-bit samples above 2^31", tiff(DEEP.astype("u4") * 2**20)),
    Case(
        "packed-32.tif",
        "compressed TIFF of 32-bit samples above 2^31",
        tiff(DEEP.astype("u4") * 2**20, compression="zlib"),
    ),
    Case(
        "signed-64.tif",
        "TIFF of 64-bit samples",
        tiff(DEEP.astype("i8") * 2**40),
        builds="a picture that training can't open",
    ),
    Case(
        "half.tif", "TIFF of half floats", tiff((GRAY / 255).astype("f2")), builds="a picture that training can't open"
    ),
    Case("float.tif", "TIFF of floats", tiff((DEEP / 4095).astype("f4"))),
    Case("double.tif", "TIFF of doubles", tiff(DEEP / 4095), builds="a picture that training can't open"),
    Case(
        "unspecified.tif",
        "RGB TIFF with a fourth sample that is no alpha",
        tiff(CLEAR, photometric="rgb", extrasamples=[0]),
    ),
    Case(
        "kept-description.tif",
        "slice of a stack that kept its description",
        tiff(GRAY, description="ImageJ=1.54f\nimages=5\n"),
    ),
    Case("turned.tif", "TIFF that is turned", pillow(RGB, "TIFF", tiffinfo={274: 8})),
    Case("cmyk.tif", "CMYK TIFF", pillow(Image.fromarray(RGB).convert("CMYK"), "TIFF")),
    Case("photo.jfif", "JPEG", JPG),
    Case("progressive.jpg", "progressive JPEG", jpeg(progressive=True)),
    Case("cmyk.jpg", "CMYK JPEG", pillow(Image.fromarray(RGB).convert("CMYK"), "JPEG")),
    Case("bad-exif.jpg", "JPEG with damaged EXIF data", jpeg(exif=BAD_EXIF)),
    Case("turned.jpg", "JPEG whose EXIF data turns it", jpeg(exif=exif(t274=6))),
    Case(
        "phone.jpg",
        "JPEG of a phone, with a preview",
        pillow(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB[::2, ::2])]),
    ),
    Case("bitmap.bmp", "BMP", pillow(RGB, "BMP")),
    Case("bitmap5.bmp", "BMP (version 5) whose alpha was never set", bitmap5()),
    Case("bitmap.dib", "BMP under the name DIB", pillow(GRAY, "BMP")),
    Case("still.gif", "GIF of one frame", pillow(GRAY, "GIF")),
    Case("web.webp", "WebP", pillow(RGB, "WEBP")),
    Case("web-lossless.webp", "lossless WebP with alpha", pillow(ALPHA, "WEBP", lossless=True)),
    # Sound ones that hold something else than one slice.
    Case("imagej.tif", "ImageJ stack of 5 slices behind one directory", imagej_stack(), FRAMES),
    Case(
        "described.tif",
        "stack of 5 slices that tifffile wrote behind one directory",
        tiff(STACK, metadata={"axes": "ZYX"}, truncate=True),
        FRAMES,
    ),
    Case("volume.tif", "TIFF of a volume", tiff(STACK, volumetric=True, tile=(16, 16, 16)), FRAMES),
    Case("pages.tif", "TIFF of 5 pages", frames("TIFF"), FRAMES),
    Case("film.gif", "animated GIF", frames("GIF"), FRAMES),
    Case("film.png", "animated PNG", frames("PNG"), FRAMES),
    Case("film.webp", "animated WebP", frames("WEBP"), FRAMES),
    Case(
        "two-channels.tif",
        "TIFF of two channels",
        tiff(RGB[..., :2], photometric="minisblack", planarconfig=1),
        "2 samples a pixel",
    ),
    Case(
        "five-channels.tif",
        "TIFF of five channels",
        tiff(np.dstack([RGB, RGB[..., :2]]).astype("f4"), photometric="minisblack", planarconfig=1),
        "5 samples a pixel",
    ),
    Case("blank.png", "uniformly gray picture", pillow(np.full((40, 40), 77, "u1"), "PNG"), "blank", ""),
    Case("transparent.png", "fully transparent", pillow(CLEAR, "PNG"), "fully transparent", ""),
    Case("tiny.png", "9 pixels wide", pillow(GRAY[:40, :9], "PNG"), "too small", ""),
    Case(
        "ribbon.png",
        "33 times as wide as high",
        pillow(np.tile(GRAY[:16], (1, 9))[:, :530], "PNG"),
        "too elongated",
        "",
    ),
    Case("huge.png", "header of 9000 x 9000 pixels", png_header(9000, 9000), "too large"),
    Case("endless.png", "header of 2^31 pixels a side", png_header(2**31 - 1, 2**31 - 1), "too large"),
    Case("nan.tif", "TIFF of floats that are not numbers", tiff(np.where(GRAY > 90, np.nan, 1.0)), "NaN"),
    # Sound ones that no reader here gives rightly.
    Case("packed-double.tif", "compressed TIFF of doubles", tiff(DEEP / 4095, compression="zlib"), "cannot be read"),
    Case(
        "packed-planes.tif",
        "compressed 16-bit TIFF with separate planes",
        tiff(np.moveaxis(RGB.astype("u2") * 9, 2, 0).copy(), photometric="rgb", planarconfig=2, compression="zlib"),
        "cannot be read",
    ),
    Case("complex.tif", "TIFF of complex numbers", tiff(GRAY.astype("c8")), "cannot be read"),
    Case("lab.tif", "TIFF of LAB colors", pillow(Image.new("LAB", (40, 40)), "TIFF"), "CIELAB colors cannot be read"),
    Case(
        "jpeg2000.tif",
        "TIFF with JPEG 2000 compression",
        retagged(TIF, 259, 34712),
        "JPEG2000 compression cannot be read",
    ),
    Case("jpegxl.tif", "TIFF with JPEG XL compression", retagged(TIF, 259, 50002), "compression cannot be read"),
    Case(
        "made-up.tif", "TIFF with a compression nobody knows", retagged(TIF, 259, 60000), "unknown (60000) compression"
    ),
    Case("twelve-bits.jpg", "JPEG of 12 bits", jpeg(twelve_bits), "JPEG of 12 bits"),
    Case("lossless.jpg", "lossless JPEG", jpeg(frame_of(0xC3)), "lossless JPEG"),
    Case("arithmetic.jpg", "lossless JPEG, arithmetic", jpeg(frame_of(0xCB)), "lossless JPEG"),
    Case("hierarchical.jpg", "hierarchical JPEG, arithmetic", jpeg(frame_of(0xCD)), "hierarchical JPEG"),
    Case(
        "apple.png", "PNG as Apple's tools pack it (CgBI)", with_chunk(b"CgBI", b"\x50\0\x20\2", 8), "Apple's own form"
    ),
    Case("jpeg-ls.jpg", "JPEG-LS", b"\xff\xd8\xff\xf7\0\x0b\x08\0\x40\0\x40\1\1\x11\0\xff\xda" + bytes(60), "JPEG-LS"),
    # Other kinds of files.
    Case("jpeg2000.png", "JPEG 2000", pillow(RGB, "JPEG2000"), NOT + "a JPEG 2000 picture"),
    Case("avif.png", "AVIF", pillow(RGB, "AVIF"), NOT + "an AVIF picture"),
    Case("heic.jpg", "HEIC", b"\0\0\0\x18ftypheic" + bytes(60), NOT + "a HEIC picture"),
    Case("movie.png", "video", b"\0\0\0\x18ftypisom" + bytes(60), NOT + "a video"),
    Case("pnm.png", "PNM", pillow(RGB, "PPM"), NOT + "a PNM picture"),
    Case("icon.png", "icon", pillow(Image.fromarray(RGB).resize((32, 32)), "ICO"), NOT + "an icon"),
    Case("photoshop.png", "Photoshop document", b"8BPS\0\1" + bytes(60), NOT + "a Photoshop document"),
    Case(
        "preamble.tif", "DICOM whose preamble is a TIFF header", TIF[:128] + b"DICM" + bytes(200), NOT + "a DICOM file"
    ),
    Case("dicom.png", "DICOM", bytes(128) + b"DICM" + bytes(200), NOT + "a DICOM file"),
    Case("nifti.png", "NIfTI", struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(60), NOT + "a NIfTI volume"),
    Case("nrrd.png", "NRRD", b"NRRD0004\ntype: short\n", NOT + "an NRRD volume"),
    Case("array.png", "NumPy file", b"\x93NUMPY\1\0" + bytes(60), NOT + "a NumPy file"),
    Case("document.png", "PDF", b"%PDF-1.7\n" + bytes(60), NOT + "a PDF document"),
    Case("drawing.png", "SVG", b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>', NOT + "a drawing"),
    Case("page.png", "web page", b"<!DOCTYPE html><html><title>Sign in</title></html>", NOT + "a web page"),
    Case("zip.png", "zip", zipped(), NOT + "a zip"),
    Case("gzip.png", "gzip", gzip.compress(PNG, mtime=0), NOT + "a compressed file"),
    Case(
        "pointer.png",
        "pointer of Git LFS",
        b"version https://git-lfs.github.com/spec/v1\n",
        NOT + "a pointer of Git LFS",
    ),
    Case("text.png", "text", b"no picture at all", "this is not a picture that can be read; expected"),
    Case("json.png", "JSON", json.dumps({"a": 1}).encode(), "this is not a picture that can be read; expected"),
    Case("zeros.png", "zeros", bytes(5000), "this is not a picture that can be read; expected"),
    Case("empty.png", "nothing", b"", "the file is empty"),
    # Damaged ones.
    Case("cut.png", "PNG cut in half", PNG[: len(PNG) // 2], DAMAGED),
    Case("far-page.tif", "BigTIFF whose page lies beyond its end", big_tiff_page(2**63 + 5), DAMAGED),
    Case("far-next-page.tif", "BigTIFF whose next page lies beyond its end", big_tiff_next(2**63 + 5), FRAMES),
    Case("head.png", "PNG with only its signature left", PNG[:8], DAMAGED),
    Case("flipped.png", "PNG with flipped bytes in its pixels", flipped(PNG, 200, 260), DAMAGED),
    Case("cut.tif", "TIFF without its last byte", TIF[:-1], DAMAGED),
    Case("cut-packed.tif", "compressed TIFF cut in half", PACKED[: len(PACKED) // 2], DAMAGED),
    Case(
        "flipped-packed.tif",
        "compressed TIFF with flipped bytes",
        flipped(PACKED, len(PACKED) // 2, len(PACKED) // 2 + 300),
        DAMAGED,
    ),
    Case("nowhere.tif", "TIFF whose directory lies beyond its end", b"II*\0\xff\xff\xff\xff", DAMAGED),
    Case("no-size.tif", "TIFF without its size", b"II*\0\x08\0\0\0" + bytes(6), "too small"),
    Case("cut.jpg", "JPEG cut in half", JPG[: len(JPG) // 2], DAMAGED),
    Case("head.jpg", "JPEG with only its start left", JPG[:20], DAMAGED),
    Case("cut.gif", "GIF cut in half", pillow(GRAY, "GIF")[:900], DAMAGED),
    Case("cut.bmp", "BMP cut in half", pillow(RGB, "BMP")[:5000], DAMAGED),
    Case("header.bmp", "BMP of a header of zeros", b"BM" + bytes(200), DAMAGED),
    Case("cut.webp", "WebP cut in half", pillow(RGB, "WEBP")[:400], DAMAGED),
)
