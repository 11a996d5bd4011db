"""Files that somebody made to do harm, each by code. MARK is in most of them, and must come out of none.

`says` is a part of the sentence that refuses a file; "" where its pixels are analyzed and all the rest is dropped.
"""

import gzip
import io
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from practice_help import picture
from pydicom.uid import DeflatedExplicitVRLittleEndian
from scans import data, series

sys.path.insert(0, str(Path(__file__).with_name("corpus")))  # the tests are imported by file

from cases import chunk, png_header, tiff  # noqa: E402

MARK = "EVIL<script>alert(1)</script>"
EVIL = MARK.encode()
SCRIPT = "<script>alert(1)</script>"
PAGE = b"<!doctype html><title>x</title>" + EVIL


@dataclass(frozen=True)
class Hostile:
    """One file, under the name that a browser would send."""

    what: str
    name: str
    content: bytes
    says: str = ""


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("slice.dcm")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    return entry


def locked() -> bytes:
    """A zip that says of itself that it is locked with a password."""
    content = bytearray(zipped(("scan.nii", EVIL * 9)))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def lying() -> bytes:
    """A zip whose table says ten bytes where there are ten million."""
    content = bytearray(zipped(("scan.nii", b"\0" * 10_000_000)))
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 10)
    return bytes(content)


def bmp_with_page() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture())).save(buffer, "BMP")
    return buffer.getvalue() + PAGE


def jpeg_with_comment() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture())).save(buffer, "JPEG", comment=b"*/" + EVIL, quality=95)
    return buffer.getvalue()


def png_with_text() -> bytes:
    buffer, told = io.BytesIO(), PngImagePlugin.PngInfo()
    told.add_text("Comment", MARK)
    told.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta>{MARK}</x:xmpmeta>")
    exif = Image.Exif()
    exif[0x010E] = MARK
    Image.open(io.BytesIO(picture())).save(buffer, "PNG", pnginfo=told, exif=exif)
    return buffer.getvalue()


def gif_that_is_a_script() -> bytes:
    """A width of `/*` begins a comment of a script, whose rest follows the picture."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture())).save(buffer, "GIF")
    return b"GIF89a/*" + buffer.getvalue()[8:] + b"*/=1;alert(1)//" + EVIL


def png_with_profile_bomb() -> bytes:
    png = picture()
    body = b"x\0\0" + zlib.compress(b"\0" * 50_000_000 + EVIL, 9)
    return png[:33] + chunk(b"iCCP", body) + png[33:]


def dicom(**tags: object) -> bytes:
    pixels = np.asarray(Image.open(io.BytesIO(picture())))[None]
    return data(series(pixels, **tags)[0])


def deflated() -> bytes:
    file = series(np.asarray(Image.open(io.BytesIO(picture())))[None])[0]
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return data(file)


def huge_dicom() -> bytes:
    file = series(np.asarray(Image.open(io.BytesIO(picture())))[None])[0]
    file.Rows = file.Columns = 65_000
    return data(file)


def nifti(shape: tuple[int, ...], affine: float = 1.0, extra: bytes = b"") -> bytes:
    """A NIfTI header that promises what doesn't follow it."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(shape), *shape, *(1,) * (7 - len(shape)))
    struct.pack_into("<hh", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, affine, affine, affine, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    header[148 : 148 + min(79, len(EVIL))] = EVIL[:79]
    header[344:348] = b"n+1\0"
    return bytes(header) + extra


def endless_tiff() -> bytes:
    """A TIFF whose only page names itself as the next one."""
    content = bytearray(tiff(np.asarray(Image.open(io.BytesIO(picture())))))
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    return bytes(content)


SVG = (
    b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><text>&x;</text>' + EVIL + b"</svg>"
)
NOT = "is not a picture that can be read"

ARCHIVES = [
    Hostile("a zip that climbs", "a.zip", zipped(("../../evil.nii", EVIL)), "leads out of it"),
    Hostile("a zip with a path from the root", "b.zip", zipped(("/etc/evil.nii", EVIL)), "leads out of it"),
    Hostile("a zip that climbs with backslashes", "c.zip", zipped(("..\\..\\evil.nii", EVIL)), "leads out of it"),
    Hostile("a zip with a drive", "d.zip", zipped(("C:\\evil.nii", EVIL)), "leads out of it"),
    Hostile("a zip with a link", "e.zip", zipped((link(), b"/etc/passwd")), "leads out of it"),
    Hostile("a zip bomb", "f.zip", zipped(("scan.nii", b"\0" * 40_000_000)), "too much"),
    Hostile("a zip in a zip", "g.zip", zipped(("h.zip", zipped(("scan.nii", EVIL)))), "holds another zip"),
    Hostile("a zip with a password", "i.zip", locked(), "locked with a password"),
    Hostile(
        "a zip of 20,000 files", "j.zip", zipped(*((f"{i}", b"") for i in range(10_500))), "more than 10,000 files"
    ),
    Hostile("a zip whose table lies", "k.zip", lying(), "k.zip"),
    Hostile("a zip with a name that is a script", "l.zip", zipped((f"{MARK}.nii", EVIL)), "l.zip"),
    Hostile("a page in front of a zip", "m.zip", PAGE + zipped(("scan.nii", EVIL)), "m.zip"),
    Hostile("a tar", "n.zip", b"x" * 257 + b"ustar" + b"\0" * 300, "tar archive"),
    Hostile("a gzip bomb", "o.nii.gz", gzip.compress(b"\0" * 40_000_000, 9), "o.nii.gz"),
]
PAGES = [
    Hostile("a page", "page.png", PAGE, NOT),
    Hostile("a page in the form of XML", "page.jpg", b'<?xml version="1.0"?>' + PAGE, NOT),
    Hostile("an SVG with a script", "drawing.svg", SVG, NOT),
    Hostile("an SVG named PNG", "drawing.png", SVG, NOT),
    Hostile("an SVG, gzipped", "drawing.svgz", gzip.compress(SVG), NOT),
    Hostile("a PDF with a script", "paper.pdf", b"%PDF-1.7\n1 0 obj<</OpenAction<</JS(" + EVIL + b")>>>>", NOT),
    Hostile("PostScript named TIFF", "paper.tif", b"%!PS-Adobe-3.0 EPSF-3.0\n(" + EVIL + b") run", NOT),
    Hostile("a script for ImageMagick", "x.png", b"push graphic-context\nimage over 0,0 'https://e/" + EVIL, NOT),
    Hostile("a pickle", "x.npy", b"\x93NUMPY\x01\0v\0" + EVIL, NOT),
    Hostile("a pickle named DICOM", "x.dcm", b"\x80\x04cos\nsystem\n(S'" + EVIL + b"'\ntR.", "isn't a DICOM file"),
    Hostile("a program", "x.exe", b"MZ" + EVIL * 9, NOT),
    Hostile("a playlist", "x.m3u8", b"#EXTM3U\nfile:///etc/passwd\n" + EVIL, NOT),
]
PICTURES = [
    Hostile("a PNG with a page behind it", "two.png", picture() + PAGE),
    Hostile("a PNG with a zip behind it", "both.png", picture() + zipped(("../evil", EVIL))),
    Hostile("a PNG with scripts in its texts", "texts.png", png_with_text()),
    Hostile("a JPEG with a script in its comment", "comment.jpg", jpeg_with_comment()),
    Hostile("a BMP with a page behind it", "page.bmp", bmp_with_page()),
    Hostile("a PNG under the name of a page", "page.html", picture() + PAGE),
    Hostile("a PNG with a bomb as color profile", "profile.png", png_with_profile_bomb()),
    Hostile("a GIF that is a script", "x.gif", gif_that_is_a_script(), "x.gif"),
    Hostile("a PNG bomb", "bomb.png", png_header(60_000, 60_000) + EVIL, "bomb.png"),
    Hostile("a TIFF without an end", "loop.tif", endless_tiff(), "loop.tif"),
    Hostile("DICOM with scripts in its names", "s.dcm", dicom(PatientName=MARK, SeriesDescription=f"FLAIR {MARK}")),
    Hostile("DICOM that is a page first", "p.dcm", (PAGE + b"\0" * 128)[:128] + dicom()[128:]),
    Hostile("DICOM that swells", "d.dcm", deflated(), "deflated"),
    Hostile("DICOM of 65,000 x 65,000 pixels", "h.dcm", huge_dicom(), "h.dcm"),
    Hostile("NIfTI of 32,000 slices that aren't there", "n.nii", nifti((32_000, 32_000, 32_000)), "too large"),
    Hostile("NIfTI without a place", "q.nii", nifti((32, 32, 4), float("nan"), b"\1\0" * 32 * 32 * 4), "q.nii"),
    Hostile("NIfTI of negative size", "m.nii", nifti((-5, 32, 4), 1.0, b"\1" * 999), "m.nii"),
]
NAMES = [
    Hostile(f"a picture named {name!r}"[:60], name, picture())
    for name in (
        "<img src=x onerror=alert(1)>.png",
        '"><svg onload=alert(1)>.png',
        "javascript:alert(1).png",
        "{{ 7*7 }}{% import os %}.png",
        "'; drop table slice; --.png",
        "../../../evil.png",
        "..\\..\\evil.png",
        "/etc/cron.d/evil.png",
        "evil\r\nSet-Cookie: a=b.png",
        "evil\x00.png",
        "\u202egnp.live.png",
        "\x1b[31mevil.png",
        "x" * 400 + ".png",
        "{name}{0}%s%n.png",
        ".png",
        "CON",
        "evil.png;.exe",
        "=cmd|' /C calc'!A0.png",
    )
]
HOSTILE = [*ARCHIVES, *PAGES, *PICTURES, *NAMES]
