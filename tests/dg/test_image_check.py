from __future__ import annotations

import os
from pathlib import Path

import pytest

from toolkit import hashing
from toolkit.dg.domains import Domains
from toolkit.dg.image_check import CheckedFile, check_images, empty_check, unchecked


def path_of(domains: Domains, index: int) -> Path:
    source = domains.domains[0].images[index].source
    assert isinstance(source, Path)
    return source


def test_every_file_is_decoded_completely(damaged: Domains) -> None:
    calls: list[tuple[int, int]] = []
    empty = empty_check("white")
    check = check_images(unchecked(damaged, empty), empty, lambda done, total, message="": calls.append((done, total)))
    files = check.by_name(damaged)
    assert {name: file.unreadable for name, file in files.items() if file.unreadable} == {
        "images/a/00.png": "truncated",
        "images/a/01.png": "empty",
        "images/b/02.png": "not an image but text",
    }
    assert [file.remarks for file in files.values() if file.remarks] == [("transparent, composited on white",)]
    assert files["images/a/02.png"].sha256 == hashing.sha256(path_of(damaged, 2))
    assert calls[-1] == (8, 8)


@pytest.mark.usefixtures("settled")
def test_only_new_and_changed_files_are_checked_again(damaged: Domains) -> None:
    check = check_images(unchecked(damaged, empty_check("white")), empty_check("white"))
    assert unchecked(damaged, check) == ()
    file = path_of(damaged, 3)
    before = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time of change cannot be set
    assert [image.name for image in unchecked(damaged, check)] == ["images/a/03.png"]
    file.unlink()
    assert [image.name for image in unchecked(damaged, check)] == ["images/a/03.png"]


def test_a_file_that_has_just_changed_is_checked_again(damaged: Domains) -> None:
    path_of(damaged, 3).touch()
    check = check_images(unchecked(damaged, empty_check("white")), empty_check("white"))
    assert "images/a/03.png" in [image.name for image in unchecked(damaged, check)]


@pytest.mark.usefixtures("settled")
def test_temporary_failures_are_checked_again_by_the_next_command(
    damaged: Domains, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = path_of(damaged, 3)
    opened = Path.open

    def refuse(path: Path, *how: object, **more: object) -> object:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return opened(path, *how, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        check = check_images(unchecked(damaged, empty_check("white")), empty_check("white"))
    assert check.files[str(file)] == CheckedFile(
        file.stat().st_size, 0, "unreadable", "failed to open (permission denied)", ()
    )
    assert [image.name for image in unchecked(damaged, check)] == ["images/a/03.png"]


def test_another_background_is_another_conversion() -> None:
    assert empty_check("white").conversion != empty_check("black").conversion
