from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from toolkit.dg.folders import list_folder
from toolkit.dg.left_out import LeftOut, by_reason
from toolkit.errors import DataError

MakeFolder = Callable[[Mapping[str, int]], Path]


def test_domains_and_classes_come_sorted_with_their_images(make_folder: MakeFolder) -> None:
    root = make_folder({"photo/dog": 2, "photo/cat": 1, "art/dog": 1, "art/cat": 1})
    found = list_folder(root)
    assert found.classes == ("cat", "dog")
    assert [domain.name for domain in found.domains] == ["art", "photo"]
    assert [(image.name, image.label) for image in found.domains[1].images] == [
        ("photo/cat/00.png", 0),
        ("photo/dog/00.png", 1),
        ("photo/dog/01.png", 1),
    ]
    assert found.domains[1].images[0].decode().size == (16, 12)
    assert found.left_out == ()


def test_a_plain_folder_is_one_domain_of_its_own_name(make_folder: MakeFolder) -> None:
    found = list_folder(make_folder({"dog": 2, "cat": 1}))
    assert found.classes == ("cat", "dog")
    assert [domain.name for domain in found.domains] == ["images"]
    assert [image.name for image in found.domains[0].images] == [
        "images/cat/00.png",
        "images/dog/00.png",
        "images/dog/01.png",
    ]
    assert found.domains[0].images[2].decode().mode == "RGB"


def test_hidden_files_and_other_files_are_passed_over(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1, ".trash/cat": 1})
    (root / "README.txt").write_text("about")
    (root / "cat" / ".00.png").write_text("")
    (root / "cat" / "UPPER.JPG").write_text("")
    found = list_folder(root)
    (domain,) = found.domains
    assert [image.name.split("/", 1)[1] for image in domain.images] == ["cat/00.png", "cat/UPPER.JPG", "dog/00.png"]
    assert by_reason(found.left_out) == {
        "hidden, or the system's own": ("images/.trash", "images/cat/.00.png"),
        "no picture": ("images/README.txt",),
    }
    assert not any(each.fault for each in found.left_out)


def test_every_format_is_used_that_pillow_reads(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    picture = (root / "cat" / "00.png").read_bytes()
    for name in ("a.gif", "b.jfif", "c.JPE", "d.webp", "e.tif", "f.bmp", "g.ppm", "no_suffix"):
        (root / "cat" / name).write_bytes(picture)  # what is inside is another question
    (root / "cat" / "LICENSE").write_text("mine")
    for name in ("h.heic", "i.svg", "j.cr2"):
        (root / "cat" / name).write_bytes(b"")
    found = list_folder(root)
    assert len(found.domains[0].images) == 10
    assert by_reason(found.left_out) == {
        ".cr2, a format that is not read": ("images/cat/j.cr2",),
        ".heic, a format that is not read": ("images/cat/h.heic",),
        ".svg, a format that is not read": ("images/cat/i.svg",),
        "no picture": ("images/cat/LICENSE",),
    }


def test_folders_without_images_are_named(make_folder: MakeFolder) -> None:
    content = {f"{domain}/{label}": 1 for domain in ("art", "photo") for label in ("cat", "dog")}
    root = make_folder({**content, "art/emu": 0, "photo/emu": 0, "sketch/cat": 0, "lists": 0, "art/notes": 0, "raw": 0})
    (root / "runs" / "default").mkdir(parents=True)  # where the toolkit is used inside the folder of images
    (root / "lists" / "train.txt").write_text("all of them")
    (root / "art" / "notes" / "1.xml").write_text("<a/>")
    (root / "raw" / "1.NEF").write_bytes(b"")
    found = [each for each in list_folder(root).left_out if each.name.endswith("/")]
    assert found == [
        LeftOut("art/emu/", "a class without images"),
        LeftOut("art/notes/", "a folder without images", fault=False),
        LeftOut("lists/", "a folder without images", fault=False),
        LeftOut("photo/emu/", "a class without images"),
        LeftOut("raw/", "a domain without images"),
        LeftOut("runs/", "a folder without images", fault=False),
        LeftOut("sketch/", "a domain without images"),
    ]
    plain = [each for each in list_folder(root / "art").left_out if each.fault]
    assert plain == [LeftOut("art/emu/", "a class without images")]


def test_a_circle_of_links_ends(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1})
    (root / "cat" / "again").symlink_to(root)
    assert list_folder(root).left_out == (LeftOut("images/cat/again/", "a link in a circle"),)


def test_a_linked_domain_is_read(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"art/cat": 1, "art/dog": 1})
    (root / "photo").symlink_to(root / "art")
    assert [domain.name for domain in list_folder(root).domains] == ["art", "photo"]


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
    with pytest.raises(DataError, match=r"holds no images; 1 left out, no picture: file\n"):
        list_folder(tmp_path)
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(DataError, match=r"not to be opened \(file name too long\)|is no path"):
            list_folder(tmp_path / name)
