"""Every file that is no picture is called what it is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from toolkit.dg import picture
from toolkit.dg.unreadable import Unreadable

NOISE = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
OTHER_THINGS = {
    "empty": b"",
    "nothing but zero bytes": bytes(3000),
    "not an image but HTML": b"\n<!-- moved -->\n<HTML><body>caf\xe9</body></HTML>",
    "not an image but SVG": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "not an image but XML": b"\xef\xbb\xbf<?xml version='1.0'?><annotation/>",
    "not an image but JSON": b' {"error": "rate limit"}',
    "not an image but text": "é".encode() * 400,
    "not an image but PDF": b"%PDF-1.7 ...",
    "not an image but HEIC, which is not read": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic",
    "not an image but a video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
    "not an image but a ZIP archive": b"PK\x03\x04\x14\0",
    "not an image but a gzip archive": b"\x1f\x8b\x08\0",
    "not an image but a Git LFS pointer, whose file is fetched by `git lfs pull`": b"version https://git-lfs.github.com",
    "not an image": b"\x93NUMPY\x01\0\xff\xfe\x80",
    "damaged or cut short": b"\x89PNG\r\n\x1a\n\0\0",
    "damaged or cut short, or a kind of TIFF that is not read": b"II*\0\x08\0\0\0\0\0",
}


def why(content: bytes, folder: Path) -> str:
    file = folder / "image.jpg"
    file.write_bytes(content)
    with picture.unwarned(), pytest.raises(Unreadable) as raised:
        picture.read(file, "white")
    return str(raised.value)


@pytest.mark.parametrize("reason", OTHER_THINGS)
def test_a_file_is_called_what_it_is(reason: str, tmp_path: Path) -> None:
    assert why(OTHER_THINGS[reason], tmp_path) == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "TIFF", "QOI"])
def test_a_file_that_ends_too_early_is_cut_short(kind: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    NOISE.save(content, kind)
    assert why(content.getvalue()[:1500], tmp_path) == "cut short"


def test_a_file_with_other_bytes_inside_is_damaged(tmp_path: Path) -> None:
    content = io.BytesIO()
    NOISE.save(content, "PNG")
    spoilt = bytearray(content.getvalue())
    spoilt[1000:1010] = bytes(10)
    assert why(bytes(spoilt), tmp_path) == "damaged"


def test_a_file_of_too_many_pixels_is_told_from_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    NOISE.save(content, "PNG")
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 900)
    assert why(content.getvalue(), tmp_path) == "too large (2,000 pixels; at most 1,800 are read)"


def test_memory_that_does_not_suffice_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(picture, "_picture_of", too_much)
    content = io.BytesIO()
    NOISE.save(content, "PNG")
    assert why(content.getvalue(), tmp_path) == "too large for the memory there is"


def test_what_the_system_refuses_is_told_by_its_reason(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "round.png").symlink_to("round.png")
    found = {}
    for name in ("gone.png", "round.png", "never.png", "."):
        with pytest.raises(Unreadable) as raised:
            picture.read(tmp_path / name, "white")
        found[name] = str(raised.value)
    assert found == {
        "gone.png": "a link to nothing",
        "round.png": "a link in a circle",
        "never.png": "no longer there",
        ".": "not to be opened (is a directory)",
    }
