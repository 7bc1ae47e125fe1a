from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image as Pillow

from toolkit.dg.left_out import by_reason
from toolkit.dg.tree import list_tree


def test_broken_and_circular_links_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "cat"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"")
    (folder / "linked.png").symlink_to("1.png")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "class_elsewhere").symlink_to("/nowhere/at/all")
    (folder / "old_notes.txt").symlink_to("nowhere")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    tree = list_tree(tmp_path)
    assert [str(name) for name in tree.images] == ["cat/1.png", "cat/linked.png"]
    assert by_reason(tree.left_out) == {
        "circular link": ("cat/itself.png", "cat/up/"),
        "broken link": ("cat/class_elsewhere", "cat/gone.png"),
        "not an image file": ("cat/old_notes.txt",),
        "device or pipe": ("cat/pipe.png",),
    }


def test_links_that_lead_deeper_and_deeper_are_not_followed(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "next").symlink_to(tmp_path / str((index + 1) % 4))
    (tmp_path / "0" / "1.png").write_bytes(b"")
    tree = list_tree(tmp_path)
    assert len(tree.images) == 4
    assert {entry.reason for entry in tree.left_out} == {"circular link"}
    deep = tmp_path / "/".join("abcdefghi") / "2.png"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(b"")
    assert [entry.name for entry in list_tree(tmp_path).left_out if entry.reason == "more than 8 folders deep"] == [
        "a/b/c/d/e/f/g/h/i/"
    ]


def test_a_folder_without_permission_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "mine" / "1.png").write_bytes(b"")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "theirs":  # a real one would not stop root
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    tree = list_tree(tmp_path)
    assert [str(name) for name in tree.images] == ["mine/1.png"]
    assert by_reason(tree.left_out) == {"failed to open (permission denied)": ("theirs/",)}


def saved(kind: str) -> bytes:
    content = io.BytesIO()
    Pillow.new("RGB", (4, 4), "red").save(content, kind)
    return content.getvalue()


def test_images_with_unsupported_suffixes_are_errors_with_their_format(tmp_path: Path) -> None:
    names_by_format = {
        "JPEG": ("1.jpg_large", "2.download", "3.mpo", "4.HEIC", "cut.jpg~"),
        "PNG": ("0.png~", "1.png (1)", "2.png?w=100", "3.ico"),
        "WebP": ("1.txt",),
        "GIF": ("1.gif.bak",),
        "BMP": ("1.bm",),
        "TIFF": ("1.svs",),
        "PPM": ("1.orig",),
    }
    for kind, names in names_by_format.items():
        for name in names:
            (tmp_path / name).write_bytes(saved(kind)[: 30 if "cut" in name else None])
    tree = list_tree(tmp_path)
    assert (tree.images, {entry.is_error for entry in tree.left_out}) == ((), {True})
    assert by_reason(tree.left_out) == {
        f"{kind} image with an unsupported suffix": names for kind, names in sorted(names_by_format.items())
    }


def test_files_without_an_image_signature_are_left_out(tmp_path: Path) -> None:
    files = {
        "raw.NEF": saved("TIFF"), "1.heic": b"\0\0\0\x24ftypheic",
        "2.heic~": b"\0\0\0\x24ftypheic", "1.jxl_": b"\xff\x0a",
        "1.svg~": b"<?xml version='1.0'?><svg/>", "page.htm": b"<!doctype html><svg/>",
        "car.txt": b"BMW, a car of 1998",
        "seat.txt": b"P1 3rd row", "empty.png~": b"", "film.mov": b"\0\0\0\x20ftypqt  ", "labels.csv": b"a,b",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    tree = list_tree(tmp_path)
    assert (tree.images, {entry.is_error for entry in tree.left_out}) == ((), {False})
    assert by_reason(tree.left_out) == {
        "unsupported format .heic": ("1.heic",),
        "unsupported format .nef": ("raw.NEF",),
        "unsupported format HEIC": ("2.heic~",),
        "unsupported format JPEG XL": ("1.jxl_",),
        "unsupported format SVG": ("1.svg~",),
        "not an image file": ("car.txt", "empty.png~", "film.mov", "labels.csv", "page.htm", "seat.txt"),
    }


def test_images_without_a_suffix_are_used_even_if_truncated(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(saved("JPEG"))
    (tmp_path / "cut").write_bytes(saved("JPEG")[:30])
    assert [str(name) for name in list_tree(tmp_path).images] == ["cut", "whole"]


def test_only_the_first_bytes_of_other_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset folder may have a hundred thousand label files next to the images."""
    for number in range(20):
        (tmp_path / f"{number}.txt").write_bytes(b"0 0.5 0.5 1 1\n" * 1000)
        (tmp_path / f"{number}.png").write_bytes(b"")
    read: list[int] = []
    monkeypatch.setattr(os, "read", lambda file, count, read_=os.read: (read.append(count), read_(file, count))[1])
    assert len(list_tree(tmp_path).images) == 20
    assert read == [512] * 20, "no image is opened"
