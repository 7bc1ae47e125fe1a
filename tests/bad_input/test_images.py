"""Datasets that cannot be used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit import records
from toolkit.dg import image_check
from toolkit.dg.image_check import CheckedImages
from toolkit.stages import IMAGE_CHECK

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]

PHOTOS = "path/to/photos"


def remove_domains(photos: Path) -> None:
    shutil.rmtree(photos / "ink")
    shutil.rmtree(photos / "photo")


def remove_class(photos: Path) -> None:
    shutil.rmtree(photos / "photo" / "class1")


def empty_class(photos: Path) -> None:
    remove_class(photos)
    (photos / "photo" / "class1").mkdir()


def break_image(photos: Path) -> None:
    file = photos / "ink" / "class0" / "3.png"
    file.write_bytes(file.read_bytes()[:60])


def remove_images(photos: Path) -> None:
    for file in photos.rglob("*.png"):
        file.unlink()


def add_depth(photos: Path) -> None:
    shutil.copy(photos / "ink" / "class0" / "3.png", photos / "ink" / "3.png")


@pytest.mark.each_choice
@pytest.mark.parametrize(
    "case",
    [
        (remove_domains, "path/to/photos has only one domain, sketch, so none can be held out", "--hold-out none"),
        (remove_class, "domain photo has no images of class1, which ink, sketch have", "every domain needs images"),
        (break_image, "not all images can be used:\n       1 truncated: ink/class0/3.png", "--skip-broken"),
        (
            empty_class,
            "domain photo has no images of class1, which ink, sketch have (1 left out, class",
            "every domain",
        ),
        (remove_images, "path/to/photos has no images", "DOMAIN/CLASS/image"),
        (add_depth, "path/to/photos has images at two depths: ink/3.png", "DOMAIN/CLASS/image"),
    ],
)
@pytest.mark.parametrize("run", ["runs/default", "runs/new"])
def test_a_dataset_that_cannot_be_used(
    here: Path,
    command: Command,
    unchanged: Unchanged,
    case: tuple[Callable[[Path], None], str, str],
    run: str,
) -> None:
    damage, message, hint = case
    damage(here / PHOTOS)
    with unchanged(here):
        ended = command("train", "--run", run, "--recipe", "toolkit.yaml")
    assert ended.code == 2
    assert f"error: {message}" in ended.err
    assert hint in ended.err


def test_skip_broken_leaves_broken_images_out(here: Path, command: Command) -> None:
    break_image(here / PHOTOS)
    ended = command("train", "--skip-broken", "--epochs", "0")
    assert ended.code == 0, ended.err
    assert "data: 1 left out, truncated: ink/class0/3.png" in ended.err


def test_an_image_damaged_after_the_check_is_named(here: Path, command: Command) -> None:
    assert command("train", "--epochs", "0").code == 0
    file = here / PHOTOS / "ink" / "class0" / "3.png"
    file.write_bytes(bytes(file.stat().st_size))
    stored = here / "runs/default" / IMAGE_CHECK
    check = records.load(CheckedImages, stored)
    unnoticed = replace(check.files[str(file)], changed_ns=file.stat().st_ctime_ns)
    records.save(replace(check, files=check.files | {str(file): unnoticed}), stored)
    ended = command("train", "--epochs", "1", "--workers", "1")
    assert ended.code == 2
    assert "error: ink/class0/3.png cannot be read: only zero bytes\n       it could be read when" in ended.err
    ended = command("train", "--epochs", "0", "--skip-broken")
    assert ended.code == 0, ended.err
    assert "checking images: 90/90" in ended.err
    assert "data: 1 left out, only zero bytes: ink/class0/3.png" in ended.err


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat all image files as settled, however recent their changes."""
    monkeypatch.setattr(image_check, "SETTLED_NS", -(10**12))


@pytest.mark.usefixtures("settled")
def test_a_changed_image_makes_the_model_stale(here: Path, command: Command) -> None:
    file = here / PHOTOS / "ink" / "class0" / "3.png"
    before = file.stat()
    file.write_bytes((file.parent / "4.png").read_bytes().ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    ended = command("train", "--epochs", "0", "--skip-broken")
    assert ended.made == ["dense"]
    assert "checking images: 1/1" in ended.err


@pytest.mark.usefixtures("settled")
def test_copied_images_need_no_new_training(here: Path, command: Command) -> None:
    shutil.copytree(here / PHOTOS, here / "mounted" / "photos")
    ended = command("train", "--data", "mounted/photos", "--hold-out", "sketch")
    assert (ended.code, ended.made) == (0, []), ended.err
    assert "checking images: 90/90" in ended.err
    assert "checking images" not in command("train").err


def test_restored_permissions_are_noticed(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed permissions of a parent folder, or a reconnected network drive, change no time stamp of a file."""
    (here / "runs/default" / IMAGE_CHECK).unlink()
    opened = Path.open

    def refuse(path: Path, *how: Any, **more: Any) -> Any:
        if path.name == "3.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        ended = command("train", "--skip-broken", "--epochs", "0")
    assert "left out, failed to open (permission denied): " in ended.err
    ended = command("train", "--skip-broken", "--epochs", "0")
    assert ended.made == ["dense"]
    assert "left out" not in ended.err
    assert ", 90 images" in ended.err


@pytest.mark.usefixtures("settled")
def test_another_split_does_not_decode_images_again(here: Path, command: Command) -> None:
    for words in (["--seed", "5"], ["--hold-out", "ink"], ["--validation-share", "0.4"]):
        ended = command("train", "--epochs", "0", *words)
        assert ended.made == ["dense"]
        assert "checking images" not in ended.err
    (here / PHOTOS / "ink" / "class0" / "3.png").touch()
    assert "checking images: 1/1" in command("train", "--epochs", "0").err


def test_a_single_domain_is_used_if_none_is_held_out(here: Path, command: Command) -> None:
    ended = command("train", "--run", "runs/one", "--data", f"{PHOTOS}/ink", "--hold-out", "none", "--epochs", "0")
    assert ended.code == 0, ended.err
    assert records.load(records.ModelInfo, Path("runs/one/dense/model.json")).classes == ("class0", "class1", "class2")


@pytest.mark.parametrize("domains", [("ink", "photo"), ("ink",)])
def test_another_dataset_resets_the_held_out_domain(
    here: Path, command: Command, in_our_words: Callable[[Any], str], domains: tuple[str, ...]
) -> None:
    for name in domains:
        shutil.copytree(Path(PHOTOS, name), Path("other", name))
    ended = command("train", "--data", "other")
    assert "reset by data.path=other: data.hold_out=sketch, data.workers=0\n" in ended.err
    assert "held out" in in_our_words(ended).replace("held-out", "held out")
    assert "--hold-out" in ended.err.splitlines()[-1]
    ended = command("train", "--data", "other", "--hold-out", "sketch")
    assert "data.hold_out" not in ended.err, "it is set again"
    assert ended.code == 2


def test_a_url_as_dataset(here: Path, command: Command, in_our_words: Callable[[Any], str]) -> None:
    ended = command("train", "--data", "https://example.org/photos.zip")
    assert "https://example.org/photos.zip is a URL, but images are read from a local folder" in in_our_words(ended)
    assert "download and unpack it first" in ended.err
