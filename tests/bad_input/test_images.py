"""Images that cannot be learned from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from toolkit import records

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
        (remove_domains, "path/to/photos has one domain, sketch, so none can be held out", "--hold-out none"),
        (remove_class, "domain photo has no images of class1, which ink, sketch have", "every domain needs images"),
        (break_image, "not all images can be used:\n       1 cut short: ink/class0/3.png", "--skip-broken"),
        (
            empty_class,
            "domain photo has no images of class1, which ink, sketch have (1 left out, a class",
            "every domain",
        ),
        (remove_images, "path/to/photos holds no images", "DOMAIN/CLASS/image"),
        (add_depth, "path/to/photos has images at two depths: ink/3.png", "DOMAIN/CLASS/image"),
    ],
)
@pytest.mark.parametrize("run", ["runs/default", "runs/new"])
def test_images_that_cannot_be_learned_from(
    here: Path,
    command: Command,
    unchanged: Unchanged,
    case: tuple[Callable[[Path], None], str, str],
    run: str,
) -> None:
    spoil, message, hint = case
    spoil(here / PHOTOS)
    with unchanged(here):
        ended = command("train", "--run", run, "--recipe", "toolkit.yaml")
    assert ended.code == 2
    assert f"error: {message}" in ended.err
    assert hint in ended.err


def test_skip_broken_goes_on_and_counts(here: Path, command: Command) -> None:
    break_image(here / PHOTOS)
    ended = command("train", "--skip-broken", "--epochs", "0")
    assert ended.code == 0, ended.err
    assert "data: 1 left out, cut short: ink/class0/3.png" in ended.err


def test_an_image_that_breaks_after_it_was_checked_is_named(here: Path, command: Command) -> None:
    assert command("train", "--epochs", "0").code == 0
    file = here / PHOTOS / "ink" / "class0" / "3.png"
    before = file.stat()
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # so that nobody sees a change
    ended = command("train", "--epochs", "1", "--workers", "1")
    assert ended.code == 2
    assert "error: ink/class0/3.png cannot be read: nothing but zero bytes\n       it could when" in ended.err
    ended = command("train", "--epochs", "0", "--skip-broken")
    assert ended.code == 0, ended.err
    assert "checking images: 90/90" in ended.err
    assert "data: 1 left out, nothing but zero bytes: ink/class0/3.png" in ended.err


def test_permissions_that_are_mended_are_noticed(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """They change neither size nor time of a file, nor does a network drive that is back."""
    (here / PHOTOS / "ink" / "class0" / "3.png").touch()  # so that all are decoded again
    opened = Path.open

    def refuse(path: Path, *how: Any, **more: Any) -> Any:
        if path.name == "3.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        ended = command("train", "--skip-broken", "--epochs", "0")
    assert "left out, not to be opened (permission denied): " in ended.err
    ended = command("train", "--skip-broken", "--epochs", "0")
    assert ended.made == ["dense"]
    assert "left out" not in ended.err
    assert ", 90 images" in ended.err


def test_another_split_decodes_nothing_again(here: Path, command: Command) -> None:
    for words in (["--seed", "5"], ["--hold-out", "ink"], ["--validation-share", "0.4"]):
        ended = command("train", "--epochs", "0", *words)
        assert ended.made == ["dense"]
        assert "checking images" not in ended.err
    (here / PHOTOS / "ink" / "class0" / "3.png").touch()
    assert "checking images: 90/90" in command("train", "--epochs", "0").err


def test_one_domain_can_be_learned_from_when_none_is_held_out(here: Path, command: Command) -> None:
    ended = command("train", "--run", "runs/one", "--data", f"{PHOTOS}/ink", "--hold-out", "none", "--epochs", "0")
    assert ended.code == 0, ended.err
    assert records.load(records.ModelInfo, Path("runs/one/dense/model.json")).classes == ("class0", "class1", "class2")


@pytest.mark.parametrize("domains", [("ink", "photo"), ("ink",)])
def test_other_data_without_the_domain_that_was_held_out(
    here: Path, command: Command, in_our_words: Callable[[Any], str], domains: tuple[str, ...]
) -> None:
    for name in domains:
        shutil.copytree(Path(PHOTOS, name), Path("other", name))
    ended = command("train", "--data", "other")
    assert "reset by data.path=other: data.hold_out=sketch, data.workers=0\n" in ended.err
    assert "held out" in in_our_words(ended)
    assert "--hold-out" in ended.err.splitlines()[-1]
    ended = command("train", "--data", "other", "--hold-out", "sketch")
    assert "data.hold_out" not in ended.err, "it is given"
    assert ended.code == 2


def test_an_address_as_data(here: Path, command: Command, in_our_words: Callable[[Any], str]) -> None:
    ended = command("train", "--data", "https://example.org/photos.zip")
    assert "https://example.org/photos.zip is an address, and images are read from a folder" in in_our_words(ended)
    assert "download and unpack it first" in ended.err
