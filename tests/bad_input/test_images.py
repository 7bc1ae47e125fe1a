"""Images that cannot be learned from."""

from __future__ import annotations

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
        (remove_class, "domain photo has no images of class1, which ink, sketch has", "every domain needs images"),
        (break_image, "1 image cannot be decoded: ink/class0/3.png", "--skip-broken"),
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
    assert "1 broken images left out: ink/class0/3.png" in ended.err


def test_one_domain_can_be_learned_from_when_none_is_held_out(here: Path, command: Command) -> None:
    ended = command("train", "--run", "runs/one", "--data", f"{PHOTOS}/ink", "--hold-out", "none", "--epochs", "0")
    assert ended.code == 0, ended.err
    assert records.load(records.ModelInfo, Path("runs/one/dense/model.json")).classes == ("class0", "class1", "class2")
