"""Unlabelled pictures: any folder, checked like others, and never those of the held-out domain."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from toolkit import recipe
from toolkit.dg.broken import checked_domains
from toolkit.dg.image import NO_LABEL
from toolkit.dg.pictures import check_apart, checked_pictures
from toolkit.errors import DataError

MakeFolder = Callable[[Mapping[str, int]], Path]
DATA = recipe.Data()


def test_pictures_of_any_depth_are_found_and_split(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 4, "b/c": 3, "b/c/d/e": 3})
    pictures, check = checked_pictures(str(root), DATA, 0)
    assert len(pictures.images) == len(check.files) == 10
    assert {image.label for image in pictures.images} == {NO_LABEL}
    training, validation = pictures.training_images()["pictures"], pictures.selection_images()["pictures"]
    assert len(validation) == 2
    assert sorted(image.name for image in (*training, *validation)) == [image.name for image in pictures.images]
    again, known = checked_pictures(str(root), DATA, 0, check)
    assert again.fingerprint() == pictures.fingerprint()
    assert known.files.keys() == check.files.keys()
    (root / "a" / "00.png").unlink()
    assert checked_pictures(str(root), DATA, 0)[0].fingerprint() != pictures.fingerprint()


def test_broken_pictures_are_refused_or_skipped(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3})
    (root / "a" / "01.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"not all images can be used[\s\S]*a/01.png"):
        checked_pictures(str(root), DATA, 0)
    pictures, _ = checked_pictures(str(root), recipe.Data(skip_broken=True), 0)
    assert [image.name for image in pictures.images] == ["a/00.png", "a/02.png"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(DataError, match=r"has 0 usable pictures; 1 left out, not an image file: notes.txt"):
        checked_pictures(str(tmp_path), DATA, 0)
    with pytest.raises(DataError, match="does not exist"):
        checked_pictures(str(tmp_path / "nowhere"), DATA, 0)


def test_pictures_of_the_held_out_domain_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"art/a": 3, "art/bb": 3, "photo/ccc": 3, "photo/dddd": 3})
    for name in ("ccc", "dddd"):
        shutil.copytree(root / "photo" / name, root / "art" / name)
    for name in ("a", "bb"):
        shutil.copytree(root / "art" / name, root / "photo" / name)
    other = tmp_path / "pictures"
    shutil.copytree(root / "art" / "a", other / "deep" / "er")
    domains, _ = checked_domains(recipe.Data(path=str(root), hold_out="photo"), 0)
    pictures, _ = checked_pictures(str(other), DATA, 0)
    with pytest.raises(DataError, match="3 of the pictures without labels are images of the held-out domain photo"):
        check_apart(pictures, domains)
    sources, _ = checked_domains(recipe.Data(path=str(root), hold_out="none"), 0)
    check_apart(pictures, sources)
