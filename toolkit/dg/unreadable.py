"""Why a file is not a picture that can be read, said by what is wrong with it and not by which library gave up."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

from PIL import UnidentifiedImageError

from toolkit.dg.image_kinds import LOOKED_AT, format_of, other_kind, webp_bytes

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
    if any(words in str(error).lower() for words in CUT_SHORT) or webp_bytes(head) > size:
        return "cut short"
    if not isinstance(error, UnidentifiedImageError):
        return "damaged"
    known = format_of(head)
    if known is None:
        return _other_than_a_picture(head)
    variant = f", or a kind of {known} that is not read" if known in ("TIFF", "BMP") else ""
    return f"damaged or cut short{variant}"


def _other_than_a_picture(head: bytes) -> str:
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    kind = other_kind(head)
    note = ", which is not read" if kind == "HEIC" else ""
    return f"not an image but {kind}{note}" if kind else "not an image"
