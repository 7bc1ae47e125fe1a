from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from toolkit.dg.folders import list_folder
from toolkit.dg.left_out import LeftOut, by_reason
from toolkit.errors import DataError

MakeFolder = Callable[[Mapping[str, int]], Path]


def test_domains_classes_and_images_are_sorted(make_folder: MakeFolder) -> None:
    root = make_folder({"photo/dog": 2, "photo/cat": 1, "art/dog": 1, "art/cat": 1})
    listing = list_folder(root)
    assert listing.classes == ("cat", "dog")
    assert [domain.name for domain in listing.domains] == ["art", "photo"]
    assert [(image.name, image.label) for image in listing.domains[1].images] == [
        ("photo/cat/00.png", 0),
        ("photo/dog/00.png", 1),
        ("photo/dog/01.png", 1),
    ]
    assert listing.domains[1].images[0].decode().size == (16, 12)
    assert listing.left_out == ()


def test_a_folder_of_classes_is_one_domain_with_its_name(make_folder: MakeFolder) -> None:
    listing = list_folder(make_folder({"dog": 2, "cat": 1}))
    assert listing.classes == ("cat", "dog")
    assert [domain.name for domain in listing.domains] == ["images"]
    assert [image.name for image in listing.domains[0].images] == [
        "images/cat/00.png",
        "images/dog/00.png",
        "images/dog/01.png",
    ]
    assert listing.domains[0].images[2].decode().mode == "RGB"


def test_hidden_and_other_files_are_left_out(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1, ".trash/cat": 1})
    (root / "README.txt").write_text("about")
    (root / "cat" / ".00.png").write_text("")
    (root / "cat" / "UPPER.JPG").write_text("")
    listing = list_folder(root)
    (domain,) = listing.domains
    assert [image.name.split("/", 1)[1] for image in domain.images] == ["cat/00.png", "cat/UPPER.JPG", "dog/00.png"]
    assert by_reason(listing.left_out) == {
        "hidden or system file": ("images/.trash", "images/cat/.00.png"),
        "not an image file": ("images/README.txt",),
    }
    assert not any(entry.is_error for entry in listing.left_out)


def test_every_format_that_pillow_reads_is_used(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    content = (root / "cat" / "00.png").read_bytes()
    for name in ("a.gif", "b.jfif", "c.JPE", "d.webp", "e.tif", "f.bmp", "g.ppm", "no_suffix"):
        (root / "cat" / name).write_bytes(content)  # files are not opened here
    (root / "cat" / "LICENSE").write_text("mine")
    for name in ("h.heic", "i.svg", "j.cr2"):
        (root / "cat" / name).write_bytes(b"")
    listing = list_folder(root)
    assert len(listing.domains[0].images) == 10
    assert by_reason(listing.left_out) == {
        "unsupported format .cr2": ("images/cat/j.cr2",),
        "unsupported format .heic": ("images/cat/h.heic",),
        "unsupported format .svg": ("images/cat/i.svg",),
        "not an image file": ("images/cat/LICENSE",),
    }


def test_folders_without_images_are_named(make_folder: MakeFolder) -> None:
    content = {f"{domain}/{label}": 1 for domain in ("art", "photo") for label in ("cat", "dog")}
    root = make_folder({**content, "art/emu": 0, "photo/emu": 0, "sketch/cat": 0, "lists": 0, "art/notes": 0, "raw": 0})
    (root / "runs" / "default").mkdir(parents=True)  # the toolkit's own, if it runs inside the dataset folder
    (root / "lists" / "train.txt").write_text("all of them")
    (root / "art" / "notes" / "1.xml").write_text("<a/>")
    (root / "raw" / "1.NEF").write_bytes(b"")
    folders = [entry for entry in list_folder(root).left_out if entry.name.endswith("/")]
    assert folders == [
        LeftOut("art/emu/", "class without images"),
        LeftOut("art/notes/", "folder without images", is_error=False),
        LeftOut("lists/", "folder without images", is_error=False),
        LeftOut("photo/emu/", "class without images"),
        LeftOut("raw/", "domain without images"),
        LeftOut("runs/", "folder without images", is_error=False),
        LeftOut("sketch/", "domain without images"),
    ]
    single_domain = [entry for entry in list_folder(root / "art").left_out if entry.is_error]
    assert single_domain == [LeftOut("art/emu/", "class without images")]


def test_a_circular_link_is_not_followed(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1})
    (root / "cat" / "again").symlink_to(root)
    assert list_folder(root).left_out == (LeftOut("images/cat/again/", "circular link"),)


def test_a_linked_domain_is_read(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"art/cat": 1, "art/dog": 1})
    (root / "photo").symlink_to(root / "art")
    assert [domain.name for domain in list_folder(root).domains] == ["art", "photo"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"art/cat": 1, "dog": 1}, r"two depths: dog/00\.png .* art/cat/00\.png"),
        ({".": 1}, r"a wrong depth: 00\.png"),
        ({"a/b/c": 1}, r"a wrong depth: a/b/c/00\.png"),
    ],
)
def test_a_wrong_depth_is_reported_with_an_example(
    make_folder: MakeFolder, content: dict[str, int], message: str
) -> None:
    if "." in content:
        (make_folder({"x": 1}) / "x" / "00.png").rename(make_folder({}) / "00.png")
        root = make_folder({})
    else:
        root = make_folder(content)
    with pytest.raises(DataError, match=message) as raised:
        list_folder(root)
    assert "DOMAIN/CLASS/image" in raised.value.hint


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        list_folder(tmp_path / "file")
    with pytest.raises(DataError, match=r"has no images; 1 left out, not an image file: file\n"):
        list_folder(tmp_path)
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(DataError, match=r"cannot be used: (failed to open \(file name too long\)|invalid path)"):
            list_folder(tmp_path / name)
