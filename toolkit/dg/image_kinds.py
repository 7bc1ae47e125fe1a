"""File types by signature, regardless of the file name. Nothing is decoded."""

from __future__ import annotations

import os
import re
from codecs import getincrementaldecoder
from pathlib import Path

HEADER_BYTES = 512
"""Bytes read to identify a file."""
SIGNATURES = tuple((re.compile(sign, re.DOTALL), name) for sign, name in (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"GIF8", "GIF"),
    (rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),  # text may begin with BM, too
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"RIFF.{4}WEBP", "WebP"),
    (rb".{4}ftypavi[fs]", "AVIF"),
    (rb"qoif", "QOI"),
    (rb"P[1-6]\s+(#|\d+\s+\d+\s)", "PPM"),
    (rb"\x01\xda[\0\1][\1\2]", "SGI"),
))  # fmt: skip
"""Signatures of supported formats, except TGA and PCX, which have none."""
OTHER_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
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
UNSUPPORTED_IMAGES = ("HEIC", "JPEG XL", "Photoshop", "SVG")
"""Image formats among the other types."""


def read_header(path: Path) -> bytes:
    """The first bytes of a file; raises OSError. Unbuffered for speed: called for every file with an unusual suffix."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return os.read(file, HEADER_BYTES)
    finally:
        os.close(file)


def format_of(header: bytes) -> str | None:
    """The supported format with this signature."""
    return next((name for sign, name in SIGNATURES if sign.match(header)), None)


def other_kind(header: bytes) -> str | None:
    """Any other type with this signature; None if unknown."""
    if kind := next((name for sign, name in OTHER_SIGNATURES if header.startswith(sign)), None):
        return kind
    if header[4:8] == b"ftyp":
        return "HEIC" if header[8:12] in HEIC else "a video"
    if b"<" in header and (markup := next((name for sign, name in MARKUP if sign in header.lower()), None)):
        return markup
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(header)  # the last character may be incomplete
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    return "JSON" if text.lstrip().startswith(("{", "[")) else "text"


def webp_size(header: bytes) -> int:
    """File size in the header of a WebP file; 0 for other files."""
    return 8 + int.from_bytes(header[4:8], "little") if format_of(header) == "WebP" else 0
