from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from toolkit.dg.folders import list_folder
from toolkit.errors import DataError

MakeFolder = Callable[[Mapping[str, int]], Path]


def test_domains_and_classes_come_sorted_with_their_images(make_folder: MakeFolder) -> None:
    root = make_folder({"photo/dog": 2, "photo/cat": 1, "art/dog": 1, "art/cat": 1})
    classes, domains = list_folder(root)
    assert classes == ("cat", "dog")
    assert [domain.name for domain in domains] == ["art", "photo"]
    assert [(image.name, image.label) for image in domains[1].images] == [
        ("photo/cat/00.png", 0),
        ("photo/dog/00.png", 1),
        ("photo/dog/01.png", 1),
    ]
    assert domains[1].images[0].decode().size == (16, 12)


def test_a_plain_folder_is_one_domain_of_its_own_name(make_folder: MakeFolder) -> None:
    classes, domains = list_folder(make_folder({"dog": 2, "cat": 1}))
    assert classes == ("cat", "dog")
    assert [domain.name for domain in domains] == ["images"]
    assert [image.name for image in domains[0].images] == [
        "images/cat/00.png",
        "images/dog/00.png",
        "images/dog/01.png",
    ]
    assert domains[0].images[2].decode().mode == "RGB"


def test_hidden_files_and_other_files_are_passed_over(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1, ".trash/cat": 1})
    (root / "README.txt").write_text("about")
    (root / "cat" / ".00.png").write_text("")
    (root / "cat" / "UPPER.JPG").write_text("")
    _, (domain,) = list_folder(root)
    assert [image.name.split("/", 1)[1] for image in domain.images] == ["cat/00.png", "cat/UPPER.JPG", "dog/00.png"]


def test_a_circle_of_links_ends(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1})
    (root / "cat" / "again").symlink_to(root)
    with pytest.raises(DataError, match=r"none are expected|two depths"):
        list_folder(root)


def test_a_linked_domain_is_read(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"art/cat": 1, "art/dog": 1})
    (root / "photo").symlink_to(root / "art")
    assert [domain.name for domain in list_folder(root)[1]] == ["art", "photo"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"art/cat": 1, "dog": 1}, r"two depths: dog/00\.png .* art/cat/00\.png"),
        ({".": 1}, r"none are expected: 00\.png"),
        ({"a/b/c": 1}, r"none are expected: a/b/c/00\.png"),
    ],
)
def test_a_wrong_depth_is_told_with_an_example(make_folder: MakeFolder, content: dict[str, int], told: str) -> None:
    if "." in content:
        (make_folder({"x": 1}) / "x" / "00.png").rename(make_folder({}) / "00.png")
        root = make_folder({})
    else:
        root = make_folder(content)
    with pytest.raises(DataError, match=told) as raised:
        list_folder(root)
    assert "DOMAIN/CLASS/image" in raised.value.hint


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        list_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        list_folder(tmp_path / "file")
    with pytest.raises(DataError, match="holds no images"):
        list_folder(tmp_path)
