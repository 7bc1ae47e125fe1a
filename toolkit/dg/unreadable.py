"""Reasons why an image file cannot be read, in terms of the file instead of the library that failed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

from PIL import UnidentifiedImageError

from toolkit.dg.image_kinds import HEADER_BYTES, format_of, other_kind, webp_size

TRUNCATION_MESSAGES = ("truncated", "eof", "not enough", "expected to read")
"""Parts of decoders' error messages for a file that ends too early."""
NOT_OPENED, NO_MEMORY = "failed to open", "not enough memory to decode"
MISSING = "no longer exists"


class Unreadable(Exception):
    """A file is not a readable image; the message is the reason: "truncated"."""


def open_failure(error: OSError, path: Path) -> str:
    """The reason why a file or folder cannot be opened."""
    if error.errno == errno.ENOENT:
        return "broken link" if path.is_symlink() else MISSING
    if error.errno == errno.ELOOP:
        return "circular link"
    return f"{NOT_OPENED} ({os.strerror(error.errno or errno.EIO).lower()})"


def is_transient(reason: str) -> bool:
    """Whether a file may become readable without changing."""
    return reason.startswith((NOT_OPENED, NO_MEMORY))


def decode_failure(error: Exception, file: BinaryIO) -> str:
    """The reason why decoding an open file failed; decoders raise exceptions of nearly any class."""
    if isinstance(error, MemoryError):
        return NO_MEMORY
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = file.read(HEADER_BYTES)
    if any(text in str(error).lower() for text in TRUNCATION_MESSAGES) or webp_size(header) > size:
        return "truncated"
    if not isinstance(error, UnidentifiedImageError):
        return "damaged"
    name = format_of(header)
    if name is None:
        return _not_an_image(header)
    variant = f", or an unsupported kind of {name}" if name in ("TIFF", "BMP") else ""
    return f"damaged or truncated{variant}"


def _not_an_image(header: bytes) -> str:
    if not header.strip(b"\0"):
        return "only zero bytes"
    kind = other_kind(header)
    if kind == "HEIC":
        return "HEIC, an unsupported format"
    return f"not an image but {kind}" if kind else "not an image"
