"""Why a file is not a picture that can be read, said by what is wrong with it and not by which library gave up."""

from __future__ import annotations

import errno
import os
from codecs import getincrementaldecoder
from pathlib import Path
from typing import BinaryIO

from PIL import UnidentifiedImageError

LOOKED_AT = 512
"""Bytes that tell what a file is."""
SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"qoif", "QOI"),
)
"""Beginnings of the formats that are read. WebP and AVIF are told further on in the file."""
OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, whose file is fetched by `git lfs pull`"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
)
HEIC = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
MARKUP = ((b"<svg", "SVG"), (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<head", "HTML"), (b"<?xml", "XML"))
CUT_SHORT = ("truncated", "eof", "not enough", "expected to read")
"""What decoders say when a file ends too early."""
NOT_OPENED, NO_MEMORY = "not to be opened", "too large for the memory there is"


class Unreadable(Exception):
    """A file is not a picture that can be read; the message is the reason, as in "a.jpg: cut short"."""


def why_not_opened(error: OSError, path: Path) -> str:
    """What the system says of a file or folder."""
    if error.errno == errno.ENOENT:
        return "a link to nothing" if path.is_symlink() else "no longer there"
    if error.errno == errno.ELOOP:
        return "a link in a circle"
    return f"{NOT_OPENED} ({os.strerror(error.errno or errno.EIO).lower()})"


def may_pass(reason: str) -> bool:
    """Whether a file may be read another time although it has not changed."""
    return reason.startswith((NOT_OPENED, NO_MEMORY))


def why_not_decoded(error: Exception, file: BinaryIO) -> str:
    """What is wrong with the content of an open file that a decoder has failed at; decoders raise nearly anything."""
    if isinstance(error, MemoryError):
        return NO_MEMORY
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(LOOKED_AT)
    if any(words in str(error).lower() for words in CUT_SHORT) or _webp_bytes(head) > size:
        return "cut short"
    if not isinstance(error, UnidentifiedImageError):
        return "damaged"
    known = _format_of(head)
    if known is None:
        return _other_than_a_picture(head)
    variant = f", or a kind of {known} that is not read" if known in ("TIFF", "BMP") else ""
    return f"damaged or cut short{variant}"


def _format_of(head: bytes) -> str | None:
    """The format that is read whose file begins so."""
    if _webp_bytes(head):
        return "WebP"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    return next((name for sign, name in SIGNATURES if head.startswith(sign)), None)


def _webp_bytes(head: bytes) -> int:
    """How long a WebP file says it is; 0: it is none."""
    return 8 + int.from_bytes(head[4:8], "little") if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else 0


def _other_than_a_picture(head: bytes) -> str:
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    if found := next((name for sign, name in OTHERS if head.startswith(sign)), None):
        return f"not an image but {found}"
    if head[4:8] == b"ftyp":
        return f"not an image but {'HEIC, which is not read' if head[8:12] in HEIC else 'a video'}"
    if markup := next((name for sign, name in MARKUP if sign in head.lower()), None):
        return f"not an image but {markup}"
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return "not an image"
    if not all(one.isprintable() or one.isspace() for one in text):
        return "not an image"
    return f"not an image but {'JSON' if text.lstrip().startswith(('{', '[')) else 'text'}"
