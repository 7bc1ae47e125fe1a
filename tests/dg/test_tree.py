from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image as Pillow

from toolkit.dg.left_out import by_reason
from toolkit.dg.tree import list_tree


def test_links_to_nothing_and_in_circles_are_named(tmp_path: Path) -> None:
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
    found = list_tree(tmp_path)
    assert [str(name) for name in found.images] == ["cat/1.png", "cat/linked.png"]
    assert by_reason(found.left_out) == {
        "a link in a circle": ("cat/itself.png", "cat/up/"),
        "a link to nothing": ("cat/class_elsewhere", "cat/gone.png"),
        "no picture": ("cat/old_notes.txt",),
        "not a file but a device or a pipe": ("cat/pipe.png",),
    }


def test_links_that_lead_ever_deeper_end(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "next").symlink_to(tmp_path / str((index + 1) % 4))
    (tmp_path / "0" / "1.png").write_bytes(b"")
    found = list_tree(tmp_path)
    assert len(found.images) == 4
    assert {each.reason for each in found.left_out} == {"a link in a circle"}
    deep = tmp_path / "/".join("abcdefghi") / "2.png"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(b"")
    assert [each.name for each in list_tree(tmp_path).left_out if each.reason == "below 8 folders"] == [
        "a/b/c/d/e/f/g/h/i/"
    ]


def test_a_folder_that_may_not_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "mine" / "1.png").write_bytes(b"")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "theirs":  # who runs the tests as root may open everything
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list_tree(tmp_path)
    assert [str(name) for name in found.images] == ["mine/1.png"]
    assert by_reason(found.left_out) == {"not to be opened (permission denied)": ("theirs/",)}


def saved(kind: str) -> bytes:
    content = io.BytesIO()
    Pillow.new("RGB", (4, 4), "red").save(content, kind)
    return content.getvalue()


def test_images_under_other_suffixes_are_faults_named_by_what_they_are(tmp_path: Path) -> None:
    faults = {
        "JPEG": ("1.jpg_large", "2.download", "3.mpo", "4.HEIC", "cut.jpg~"),
        "PNG": ("0.png~", "1.png (1)", "2.png?w=100", "3.ico"),
        "WebP": ("1.txt",),
        "GIF": ("1.gif.bak",),
        "BMP": ("1.bm",),
        "TIFF": ("1.svs",),
        "PPM": ("1.orig",),
    }
    for kind, names in faults.items():
        for name in names:
            (tmp_path / name).write_bytes(saved(kind)[: 30 if "cut" in name else None])
    found = list_tree(tmp_path)
    assert (found.images, {each.fault for each in found.left_out}) == ((), {True})
    assert by_reason(found.left_out) == {
        f"an image ({kind}) under a suffix that is not read": names for kind, names in sorted(faults.items())
    }


def test_what_is_no_image_by_its_first_bytes_is_passed_over(tmp_path: Path) -> None:
    files = {
        "raw.NEF": saved("TIFF"), "1.heic": b"\0\0\0\x24ftypheic",
        "2.heic~": b"\0\0\0\x24ftypheic", "1.jxl_": b"\xff\x0a",
        "1.svg~": b"<?xml version='1.0'?><svg/>", "page.htm": b"<!doctype html><svg/>",
        "car.txt": b"BMW, a car of 1998",
        "seat.txt": b"P1 3rd row", "empty.png~": b"", "film.mov": b"\0\0\0\x20ftypqt  ", "labels.csv": b"a,b",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found = list_tree(tmp_path)
    assert (found.images, {each.fault for each in found.left_out}) == ((), {False})
    assert by_reason(found.left_out) == {
        ".heic, a format that is not read": ("1.heic",),
        ".nef, a format that is not read": ("raw.NEF",),
        "HEIC, a format that is not read": ("2.heic~",),
        "JPEG XL, a format that is not read": ("1.jxl_",),
        "SVG, a format that is not read": ("1.svg~",),
        "no picture": ("car.txt", "empty.png~", "film.mov", "labels.csv", "page.htm", "seat.txt"),
    }


def test_an_image_without_a_suffix_is_used_and_a_cut_one_is_no_less_an_image(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(saved("JPEG"))
    (tmp_path / "cut").write_bytes(saved("JPEG")[:30])
    assert [str(name) for name in list_tree(tmp_path).images] == ["cut", "whole"]


def test_of_a_file_only_the_first_bytes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a hundred thousand files of labels beside the images."""
    for number in range(20):
        (tmp_path / f"{number}.txt").write_bytes(b"0 0.5 0.5 1 1\n" * 1000)
        (tmp_path / f"{number}.png").write_bytes(b"")
    read: list[int] = []
    monkeypatch.setattr(os, "read", lambda file, count, read_=os.read: (read.append(count), read_(file, count))[1])
    assert len(list_tree(tmp_path).images) == 20
    assert read == [512] * 20, "and none of the images"
