"""Recognizes files by their first bytes, and chooses the parts of them that decoders get.

Text, color profiles and EXIF data don't change a pixel here, but make decoders warn, refuse or fill the memory: of PNG
and JPEG files they are left out before a decoder sees them, and the orientation is taken from them first.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from bthub.errors import BthubError
from bthub.imaging.checks import several_frames

FORMATS = "PNG, TIFF, JPEG, BMP, WebP or GIF"

_SCAN = "read it as a scan, with bthub predict or bthub.analyze_study, or export the slice as PNG or TIFF"
# Files that people take for pictures, or have instead of one: the sentence that says what it is, and the mend.
_OTHERS = (
    (re.compile(rb".{128}DICM", re.DOTALL), "a DICOM file", _SCAN),
    (
        re.compile(rb"(?:\x5c\x01\0\0|\0\0\x01\x5c).{340}(?:n[i+]1\0)", re.DOTALL),
        "a NIfTI volume",
        _SCAN,
    ),
    (re.compile(rb"(?:\x1c\x02\0\0|\0\0\x02\x1c)n[i+]2\0"), "a NIfTI volume", _SCAN),
    (re.compile(rb"NRRD000"), "an NRRD volume", "export the slice as PNG or TIFF"),
    (re.compile(rb"(?:ObjectType|NDims) *="), "a MetaImage header", "export the slice as PNG or TIFF"),
    (re.compile(rb"\x89HDF\r\n\x1a\n"), "an HDF5 file", "export the slice as PNG or TIFF"),
    (re.compile(rb"MATLAB 5\.0 MAT-file"), "a MATLAB file", "export the slice as PNG or TIFF"),
    (re.compile(rb"\x93NUMPY"), "a NumPy file", "load it, and give the array or save it as PNG or TIFF"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51"), "a JPEG 2000 picture", "save it as PNG"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL picture", "save it as PNG"),
    (re.compile(rb"....ftyp(?:avif|avis)", re.DOTALL), "an AVIF picture", "save it as PNG"),
    (re.compile(rb"....ftyp(?:hei|hev|mif|msf)", re.DOTALL), "a HEIC picture", "save it as PNG or JPEG"),
    (re.compile(rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", re.DOTALL), "a video", "save the slice as PNG"),
    (re.compile(rb"II\xbc\x01"), "a JPEG XR picture", "save it as PNG"),
    (re.compile(rb"8BPS"), "a Photoshop document", "export it as PNG"),
    (re.compile(rb"P[1-7fF]\s"), "a PNM picture", "save it as PNG"),
    (re.compile(rb"\0\0[\x01\x02]\0"), "an icon", "save it as PNG"),
    (re.compile(rb"%PDF-"), "a PDF document", "export the slice as PNG"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "a PostScript document", "export the slice as PNG"),
    (re.compile(rb"PK(?:\x03\x04|\x05\x06)"), "a zip, or a document that is one", "unpack it, and give what is in it"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd"), "a compressed file", "unpack it"),
    (re.compile(rb"Rar!\x1a\x07|7z\xbc\xaf\x27\x1c"), "an archive", "unpack it, and give what is in it"),
    (
        re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!.{0,500}?>\s*)*<svg", re.DOTALL | re.I),
        "a drawing (SVG)",
        "save it as PNG",
    ),
    (
        re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", re.I),
        "a web page",
        "download the picture itself",
    ),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS", "fetch the file with `git lfs pull`"),
)

# Chunks of a PNG that its pixels depend on. Left out are text, profiles, EXIF and what animates it.
_PNG_SHOWN = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_PNG_ANIMATION, _PNG_EXIF = b"acTL", b"eXIf"
_EXIF_TEXT = re.compile(rb"Raw profile type (?:exif|APP1)\0")
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")
_MAX_TEXT = 2**20

# Frames of JPEG data by their marker: those that Pillow's library decodes, and the names of the others.
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_JPEG_OTHERS = {
    **dict.fromkeys((0xC3, 0xCB), "lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG"),
    0xF7: "JPEG-LS",
}
_JPEG_SHOWN = frozenset({0xE0, 0xEE})  # of the application segments: JFIF, and Adobe's that says what the colors are


def other_kind(content: bytes) -> str:
    """What a file is that is none of FORMATS, as a sentence goes on after its name."""
    for pattern, what, mend in _OTHERS:
        if pattern.match(content):
            return f"this is not a picture that can be read but {what}; expected {FORMATS}; {mend}"
    return f"this is not a picture that can be read; expected {FORMATS}"


def is_dicom(content: bytes) -> bool:
    """Whether it is a DICOM file, whose first 128 bytes may look like the header of another format."""
    return content[128:132] == b"DICM"


def shown_png(content: bytes, name: str) -> tuple[bytes, int]:
    """A PNG with only what its pixels depend on, and its orientation, 1 to 8.

    Raises:
        BthubError: it is animated, or of Apple's own form.
        struct.error: it ends within a chunk.
    """
    kept, position = [content[:8]], 8
    orientation: int | None = None
    from_xmp = 1
    while position + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        body = content[position + 8 : position + 8 + size]
        if len(body) < size:
            raise struct.error("a chunk lies beyond the end of the file")
        if kind in _PNG_SHOWN:
            kept.append(content[position : position + size + 12])
        elif kind == _PNG_ANIMATION and size >= 4 and struct.unpack_from(">I", body)[0] > 1:
            raise several_frames(name)
        elif kind == b"CgBI":
            raise BthubError(
                f"{name}: is a PNG of Apple's own form (CgBI), which can't be read; save it as a plain PNG"
            )
        elif kind == _PNG_EXIF:
            orientation = exif_orientation(body)
        elif kind in (b"tEXt", b"zTXt") and _EXIF_TEXT.match(body):
            orientation = exif_orientation(_hexadecimal(body, packed=kind == b"zTXt"))
        elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            from_xmp = xmp_orientation(_international(body))
        position += size + 12
        if kind == b"IEND":
            break
    return b"".join(kept), from_xmp if orientation is None else orientation


def _international(text: bytes) -> bytes:
    """What a text of a PNG in UTF-8 says, unpacked; b"" where it is damaged."""
    packed, _, rest = text.partition(b"\0")[2].partition(b"\0")
    if not packed:  # the flag is 0, and what parted is the flag itself
        return rest
    try:
        # After flag and method: language, translated keyword, the text.
        return zlib.decompressobj().decompress(rest.split(b"\0", 2)[2], _MAX_TEXT)
    except (IndexError, zlib.error):
        return b""


def _hexadecimal(text: bytes, *, packed: bool) -> bytes:
    """The EXIF data that some programs write into a text of a PNG, in digits; b"" where it isn't that."""
    value = text.partition(b"\0")[2]
    try:
        if packed:
            value = zlib.decompressobj().decompress(value[1:], _MAX_TEXT)
        return bytes.fromhex(b"".join(value.split()[2:]).decode("ascii"))
    except (ValueError, zlib.error):
        return b""


def shown_jpeg(content: bytes, name: str) -> tuple[bytes, int]:
    """A JPEG with only what its pixels depend on, and its orientation, 1 to 8.

    Raises:
        BthubError: it is of a kind that isn't decoded: 12 bits, lossless, JPEG-LS.
        struct.error: it ends before its pixels begin.
    """
    kept, from_xmp = [content[:2]], 1
    orientation: int | None = None
    for marker, start, end in _segments(content):
        body = content[start + 4 : end]
        if marker in _JPEG_OTHERS:
            raise BthubError(f"{name}: this is a {_JPEG_OTHERS[marker]} picture, which can't be read; save it as PNG")
        if marker in _JPEG_FRAMES and body[:1] not in (b"\x08", b""):
            raise BthubError(f"{name}: this is a JPEG of {body[0]} bits a sample, expected 8; save it as PNG or TIFF")
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            orientation = exif_orientation(body[6:])
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            from_xmp = xmp_orientation(body)
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in _JPEG_SHOWN:
            kept.append(content[start:end])
    return b"".join(kept), from_xmp if orientation is None else orientation


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment; the last one, from the start of the scan, goes to the end of the file."""
    position = 2
    while True:
        start = position
        while content[position : position + 2] == b"\xff\xff":  # padding
            position += 1
        lead, marker = struct.unpack_from("BB", content, position)
        if lead != 0xFF:  # decoders look for the next marker: they shall
            yield 0, start, len(content)
            return
        if marker == 0xDA:
            yield marker, start, len(content)
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # alone, without a length
            yield marker, position, position + 2
            position += 2
            continue
        (size,) = struct.unpack_from(">H", content, position + 2)
        if size < 2 or position + 2 + size > len(content):
            raise struct.error("a segment lies beyond the end of the file")
        yield marker, position, position + 2 + size
        position += 2 + size


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in EXIF data, 1 to 8, 1 also for nonsense; None where they have none or are damaged."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    try:
        (position,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, position)
        for start in range(position + 2, position + 2 + 12 * count, 12):
            tag, kind, _ = struct.unpack_from(order + "HHI", exif, start)
            if tag == 274 and kind in (3, 4):
                (value,) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], exif, start + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return None
    return None


def xmp_orientation(xmp: bytes) -> int:
    """The orientation in XMP data, 1 to 8; 1 where there is none."""
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
