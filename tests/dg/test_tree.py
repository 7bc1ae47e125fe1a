from __future__ import annotations

import os
from pathlib import Path

import pytest

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
