"""A dataset folder with every kind of problem: which files are used, which are left out, and why."""

from __future__ import annotations

import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolkit import records
from toolkit.dg.decoding import suffixes
from toolkit.dg.summary import DataSummary

Command = Callable[..., Any]

PHOTOS = Path("path/to/photos")
ESCAPES = os.fsdecode(b"\xff\x1b[31m\n.png")
"""A file name with invalid UTF-8, an ANSI escape sequence and a line break."""
NO_WHITE = "floating-point pixels without a defined white level (save it with 8 or 16 bits per channel)"
POINTER = "not an image but a Git LFS pointer (run `git lfs pull`)"


@dataclass(frozen=True)
class Horrors:
    """Files added to a dataset of 90 images."""

    used: int
    """Number of readable images in all formats and modes."""
    errors: dict[str, tuple[str, ...]]
    """Names by reason."""
    ignored: dict[str, tuple[str, ...]]
    """Names by reason, of files that are no error."""
    remarks: dict[str, int]


@pytest.fixture
def horrors(finished: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Horrors:
    """Changes to a working folder with a toolkit.yaml, and a dataset with every kind of problem."""
    folder = tmp_path / "work"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("runs"))
    monkeypatch.chdir(folder)
    used = add_unusual_images(PHOTOS / "ink" / "class0")
    add_unreadable_images(PHOTOS / "photo" / "class1")
    add_links_and_folders()
    add_other_files()
    return Horrors(
        used,
        errors={
            "class without images": ("ink/emu/", "photo/emu/", "sketch/emu/"),
            "domain without images": ("vector/",),
            "circular link": ("ink/class0/round.png", "photo/class0/up/"),
            "broken link": ("ink/class0/gone.png", "ink/lost"),
            "PNG image with an unsupported suffix": ("photo/class1/0.png.download", "photo/class1/0.png~"),
            "truncated": ("photo/class1/cut.jpg", "photo/class1/cut.png"),
            "empty": ("photo/class1/empty.png",),
            NO_WHITE: ("photo/class1/float.tif",),
            "not an image but HTML": ("photo/class1/page.jpg",),
            POINTER: ("photo/class1/pointer.png",),
            "not an image but text": (f"photo/class1/{ESCAPES}",),
            "too large (900,000,000 pixels, limit 178,956,970)": ("photo/class1/huge.png",),
        },
        ignored={
            "unsupported format .heic": ("ink/class0/phone.HEIC", "sketch/emu/1.heic"),
            "unsupported format .svg": ("vector/class0/1.svg",),
            "folder without images": ("annotations/",),
            "hidden or system file": (
                "__MACOSX", "ink/.DS_Store", "ink/.ipynb_checkpoints", "ink/class0/._0.png", "ink/class0/Thumbs.db",
            ),
            "not an image file": ("README", "annotations/1.xml", "ink/class0/labels.csv"),
        },
        remarks={
            "more than 8 bits per channel, scaled to 8": 2,
            "only the first of several frames or pages is used": 1,
            "transparent, composited on white": 2,
        },
    )  # fmt: skip


def add_unusual_images(folder: Path) -> int:
    """Add readable images in all formats and modes; returns how many."""
    image = Image.open(folder / "0.png").convert("RGB")
    wide = Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)
    clear = image.copy()
    clear.putalpha(image.convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "saved.jfif", "JPEG")
    image.save(folder / "upper.JPEG", exif=turned)
    image.save(folder / "no_suffix", "JPEG")
    image.save(folder / "other_name.jpg", "PNG")
    image.convert("CMYK").save(folder / "print.jpe", "JPEG")
    image.save(folder / "moves.gif", save_all=True, append_images=[image.rotate(90)])
    image.save(folder / "web.webp")
    wide.save(folder / "wide.png")
    wide.save(folder / "wide.tiff")
    clear.save(folder / "clear.png")
    clear.quantize(8).save(folder / "palette.png")
    if ".avif" in suffixes():
        image.save(folder / "new.avif")
    return 11 + (".avif" in suffixes())


def add_unreadable_images(folder: Path) -> None:
    whole = (folder / "0.png").read_bytes()
    for name in ("0.png~", "0.png.download"):
        (folder / name).write_bytes(whole)
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.open(folder / "0.png").save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<!DOCTYPE html>\n<html><body>404</body></html>")
    (folder / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / ESCAPES).write_text("no image at all")
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(folder / "float.tif")
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    (folder / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def add_links_and_folders() -> None:
    (PHOTOS / "ink" / "class0" / "gone.png").symlink_to("nowhere.png")
    (PHOTOS / "ink" / "class0" / "round.png").symlink_to("round.png")
    (PHOTOS / "ink" / "lost").symlink_to("nowhere")
    (PHOTOS / "photo" / "class0" / "up").symlink_to("..")
    for domain in ("ink", "photo", "sketch"):
        (PHOTOS / domain / "emu").mkdir()
    (PHOTOS / "sketch" / "emu" / "1.heic").write_bytes(b"....ftypheic")
    (PHOTOS / "vector" / "class0").mkdir(parents=True)
    (PHOTOS / "vector" / "class0" / "1.svg").write_text("<svg/>")


def add_other_files() -> None:
    for name in (
        "__MACOSX/ink/0.png", "ink/.DS_Store", "ink/.ipynb_checkpoints/0.png", "ink/class0/._0.png",
        "ink/class0/Thumbs.db", "README", "annotations/1.xml", "ink/class0/labels.csv", "ink/class0/phone.HEIC",
    ):  # fmt: skip
        (PHOTOS / name).parent.mkdir(parents=True, exist_ok=True)
        (PHOTOS / name).write_text("other")


def test_all_errors_are_listed_with_reasons(horrors: Horrors, command: Command) -> None:
    ended = command("train", "--run", "runs/new")
    assert ended.code == 2
    assert "error: not all images can be used:\n" in ended.err
    for reason, names in horrors.errors.items():
        assert f"       {len(names)} {reason}: {as_listed(names)}\n" in ended.err
    assert "--skip-broken" in ended.err
    assert free_of_library_messages(ended.err)
    assert not Path("runs/new").exists()


def test_skip_broken_uses_the_rest_and_lists_what_is_left_out(horrors: Horrors, command: Command) -> None:
    ended = command("train", "--run", "runs/new", "--skip-broken", "--epochs", "0")
    assert ended.code == 0, ended.err
    ink, total = 30 + horrors.used, 90 + horrors.used
    assert f"data: 3 domains (ink {ink}, photo 30; held out: sketch 30), 3 classes, {total} images\n" in ended.err
    left_out = {**horrors.errors, **horrors.ignored}
    for reason, names in left_out.items():
        assert f"data: {len(names)} left out, {reason}: {as_listed(names)}\n" in ended.err
    for remark, count in horrors.remarks.items():
        assert f"data: {count} image{'s' if count > 1 else ''}: {remark}\n" in ended.err
    assert free_of_library_messages(ended.err)
    summary = records.load(DataSummary, Path("runs/new/dense/data.json"))
    assert (summary.left_out, summary.remarks) == (left_out, horrors.remarks)


def test_classes_that_differ_only_in_16_bits_or_in_alpha_are_learned(
    finished: tuple[Path, object], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipped to 8 bits, all images of the first folder would be white; without a background, all images of the second
    would be black."""
    shutil.copy(finished[0] / "toolkit.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        dim = number % 2
        for domain, image in (
            ("wide", Image.fromarray(np.full((16, 16), 2_000 + 100 * number if dim else 60_000, dtype=np.uint16))),
            ("clear", Image.new("RGBA", (16, 16), (0, 0, 0, 250 - number if dim else number))),
        ):
            folder = Path(domain, "dim" if dim else "bright")
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    for domain in ("wide", "clear"):
        ended = command(
            "train", "--data", domain, "--hold-out", "none", "--run", f"runs/{domain}", "--learning-rate", "0.003"
        )
        assert ended.code == 0, ended.err
        assert f"validation accuracy: {domain} 100.0%" in ended.err


def as_listed(names: tuple[str, ...]) -> str:
    return ", ".join(names).replace(ESCAPES, r"\udcff\x1b[31m\n.png")


def free_of_library_messages(text: str) -> bool:
    return not re.search(r"\x1b|Traceback|Warning|PIL|site-packages|UnidentifiedImage|\.py\b", text)
