"""Reasons why files cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from toolkit.dg import decoding
from toolkit.dg.unreadable import Unreadable

NOISE = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
CONTENT_BY_REASON = {
    "empty": b"",
    "only zero bytes": bytes(3000),
    "not an image but HTML": b"\n<!-- moved -->\n<HTML><body>caf\xe9</body></HTML>",
    "not an image but SVG": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "not an image but XML": b"\xef\xbb\xbf<?xml version='1.0'?><annotation/>",
    "not an image but JSON": b' {"error": "rate limit"}',
    "not an image but text": "é".encode() * 400,
    "not an image but PDF": b"%PDF-1.7 ...",
    "HEIC, an unsupported format": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic",
    "not an image but a video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
    "not an image but a ZIP archive": b"PK\x03\x04\x14\0",
    "not an image but a gzip archive": b"\x1f\x8b\x08\0",
    "not an image but a Git LFS pointer (run `git lfs pull`)": b"version https://git-lfs.github.com",
    "not an image": b"\x93NUMPY\x01\0\xff\xfe\x80",
    "damaged or truncated": b"\x89PNG\r\n\x1a\n\0\0",
    "damaged or truncated, or an unsupported kind of TIFF": b"II*\0\x08\0\0\0\0\0",
}


def reason_for(content: bytes, folder: Path) -> str:
    file = folder / "image.jpg"
    file.write_bytes(content)
    with decoding.without_warnings(), pytest.raises(Unreadable) as raised:
        decoding.decode(file, "white")
    return str(raised.value)


@pytest.mark.parametrize("reason", CONTENT_BY_REASON)
def test_a_file_of_another_type_is_identified(reason: str, tmp_path: Path) -> None:
    assert reason_for(CONTENT_BY_REASON[reason], tmp_path) == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "TIFF", "QOI"])
def test_a_file_that_ends_too_early_is_truncated(kind: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    NOISE.save(content, kind)
    assert reason_for(content.getvalue()[:1500], tmp_path) == "truncated"


def test_a_file_with_wrong_bytes_is_damaged(tmp_path: Path) -> None:
    content = io.BytesIO()
    NOISE.save(content, "PNG")
    damaged = bytearray(content.getvalue())
    damaged[1000:1010] = bytes(10)
    assert reason_for(bytes(damaged), tmp_path) == "damaged"


def test_a_file_with_too_many_pixels_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    NOISE.save(content, "PNG")
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 900)
    assert reason_for(content.getvalue(), tmp_path) == "too large (2,000 pixels, limit 1,800)"


def test_lack_of_memory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "_to_rgb", out_of_memory)
    content = io.BytesIO()
    NOISE.save(content, "PNG")
    assert reason_for(content.getvalue(), tmp_path) == "not enough memory to decode"


def test_files_that_cannot_be_opened_have_reasons(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "round.png").symlink_to("round.png")
    reasons = {}
    for name in ("gone.png", "round.png", "never.png", "."):
        with pytest.raises(Unreadable) as raised:
            decoding.decode(tmp_path / name, "white")
        reasons[name] = str(raised.value)
    assert reasons == {
        "gone.png": "broken link",
        "round.png": "circular link",
        "never.png": "no longer exists",
        ".": "failed to open (is a directory)",
    }
