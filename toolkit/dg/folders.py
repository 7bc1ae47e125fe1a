"""Images from a folder: DOMAIN/CLASS/image, or CLASS/image as one domain named after the folder.

Files are only listed here, not opened. What is passed over is listed too, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.characters import listed
from toolkit.dg.image import Domain, Image
from toolkit.dg.left_out import LeftOut, by_reason, told
from toolkit.dg.picture import suffixes
from toolkit.dg.tree import HIDDEN, NO_PICTURE, Name, Tree, list_tree
from toolkit.errors import DataError

LAYOUTS = "expected DOMAIN/CLASS/image, or CLASS/image for a single domain"
EMPTY_CLASS = "a class without images"
EMPTY_DOMAIN = "a domain without images"
NO_IMAGES = "a folder without images"


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    classes: tuple[str, ...]
    """Sorted; those with an image."""
    domains: tuple[Domain, ...]
    """Sorted by name; those with an image."""
    left_out: tuple[LeftOut, ...] = ()


def list_folder(root: Path, background: str = "white") -> Listing:
    """Classes and domains of a folder.

    Raises DataError for a folder that cannot be opened, holds no images, or has them at the wrong depth or at two.
    """
    tree = list_tree(root)
    if not tree.images:
        instead = "".join(f"; {line}" for line in told(by_reason(tree.left_out)))
        raise DataError(f"{root} holds no images{instead}", f"{LAYOUTS} ({', '.join(sorted(suffixes()))})")
    place, depth = root, _depth(root, tree.images)
    left_out = (*tree.left_out, *_empty_folders(tree, depth))
    if depth == 2:
        place = root.resolve().parent
        tree = replace(tree, left_out=left_out).below(root.resolve().name)
        left_out = tree.left_out
    classes = tuple(sorted({file.parts[1] for file in tree.images}))
    labels = {name: label for label, name in enumerate(classes)}
    found: dict[str, list[Image]] = {}
    for file in tree.images:  # sorted
        name = file.as_posix()
        image = Image(name, name, labels[file.parts[1]], place / file, background)
        found.setdefault(file.parts[0], []).append(image)
    return Listing(classes, tuple(Domain(name, tuple(images)) for name, images in found.items()), left_out)


def _empty_folders(tree: Tree, depth: int) -> Iterator[LeftOut]:
    """Folders in the place of a class or a domain that hold no image. It is a fault where images were to be expected:
    where it is empty, or holds pictures that we cannot read, or folders named as classes."""
    used = {parent for image in tree.images for parent in image.parents}
    classes = {image.parent.name for image in tree.images}
    inside: dict[Name, set[str]] = {}  # folder to why what is in it is left out
    for each in tree.left_out:
        for parent in Name(each.name).parents:
            inside.setdefault(parent, set()).add(each.reason)
    folders: dict[Name, set[str]] = {}
    for folder in tree.folders:
        folders.setdefault(folder.parent, set()).add(folder.name)
    for folder in tree.folders:
        level = len(folder.parts)
        if level < depth and folder not in used and (level == 1 or folder.parent in used):
            others, below = inside.get(folder, set()) - {HIDDEN}, folders.get(folder, set())
            expected = others != {NO_PICTURE} if others else not below or bool(below & classes)
            reason = NO_IMAGES if not expected else EMPTY_CLASS if level == depth - 1 else EMPTY_DOMAIN
            yield LeftOut(f"{folder}/", reason, fault=expected)


def _depth(root: Path, images: Sequence[Name]) -> int:
    """2 for CLASS/image, 3 for DOMAIN/CLASS/image."""
    example = {len(image.parts): image for image in reversed(images)}
    wrong = [image for depth, image in sorted(example.items()) if depth not in (2, 3)]
    if wrong:
        raise DataError(f"{root} has images where none are expected: {listed(map(str, wrong))}", LAYOUTS)
    if len(example) > 1:
        raise DataError(
            f"{root} has images at two depths: {listed([str(example[2])])} as in CLASS/image, "
            f"{listed([str(example[3])])} as in DOMAIN/CLASS/image",
            LAYOUTS,
        )
    return next(iter(example))
