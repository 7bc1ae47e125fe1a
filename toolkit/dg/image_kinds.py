"""What a file is, by its first bytes and not by its name. Nothing is decoded."""

from __future__ import annotations

import os
import re
from codecs import getincrementaldecoder
from pathlib import Path

LOOKED_AT = 512
"""Bytes that tell what a file is."""
SIGNATURES = tuple((re.compile(sign, re.DOTALL), name) for sign, name in (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"GIF8", "GIF"),
    (rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),  # a text may begin with BM
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"RIFF.{4}WEBP", "WebP"),
    (rb".{4}ftypavi[fs]", "AVIF"),
    (rb"qoif", "QOI"),
    (rb"P[1-6]\s+(#|\d+\s+\d+\s)", "PPM"),
    (rb"\x01\xda[\0\1][\1\2]", "SGI"),
))  # fmt: skip
"""Beginnings of the formats that are read, but for TGA and PCX, which have no mark of their own."""
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
MARKUP = ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<svg", "SVG"), (b"<head", "HTML"), (b"<?xml", "XML"))
NOT_READ = ("HEIC", "JPEG XL", "Photoshop", "SVG")
"""Pictures among the kinds that are not read."""


def head_of(path: Path) -> bytes:
    """The first bytes of a file; OSError is the caller's. Quick, as it is asked of every file with an odd name."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return os.read(file, LOOKED_AT)
    finally:
        os.close(file)


def format_of(head: bytes) -> str | None:
    """The format that is read whose files begin so."""
    return next((name for sign, name in SIGNATURES if sign.match(head)), None)


def other_kind(head: bytes) -> str | None:
    """What else it is; None: nothing that is known here."""
    if found := next((name for sign, name in OTHERS if head.startswith(sign)), None):
        return found
    if head[4:8] == b"ftyp":
        return "HEIC" if head[8:12] in HEIC else "a video"
    if b"<" in head and (markup := next((name for sign, name in MARKUP if sign in head.lower()), None)):
        return markup
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return None
    if not all(one.isprintable() or one.isspace() for one in text):
        return None
    return "JSON" if text.lstrip().startswith(("{", "[")) else "text"


def webp_bytes(head: bytes) -> int:
    """How long a WebP file says it is; 0: it is none."""
    return 8 + int.from_bytes(head[4:8], "little") if format_of(head) == "WebP" else 0
