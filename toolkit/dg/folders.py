"""Datasets in folders: DOMAIN/CLASS/image, or CLASS/image as a single domain named after the folder.

Files are listed, not opened. Files that are not used are listed too, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.characters import listed
from toolkit.dg.decoding import suffixes
from toolkit.dg.image import Domain, Image
from toolkit.dg.left_out import LeftOut, by_reason, descriptions
from toolkit.dg.tree import HIDDEN, NOT_AN_IMAGE, Name, Tree, list_tree
from toolkit.errors import DataError

LAYOUTS = "expected DOMAIN/CLASS/image, or CLASS/image for a single domain"
EMPTY_CLASS = "class without images"
EMPTY_DOMAIN = "domain without images"
NO_IMAGES = "folder without images"


@dataclass(frozen=True)
class Listing:
    """Contents of a dataset folder."""

    classes: tuple[str, ...]
    """Classes with at least one image, sorted."""
    domains: tuple[Domain, ...]
    """Domains with at least one image, sorted by name."""
    left_out: tuple[LeftOut, ...] = ()


def list_folder(root: Path, background: str = "white") -> Listing:
    """List classes and domains of a folder.

    Raises DataError for a folder that cannot be opened, has no images, or has them at a wrong depth or at two depths.
    """
    tree = list_tree(root)
    if not tree.images:
        details = "".join(f"; {line}" for line in descriptions(by_reason(tree.left_out)))
        raise DataError(f"{root} has no images{details}", f"{LAYOUTS} ({', '.join(sorted(suffixes()))})")
    base, depth = root, _depth(root, tree.images)
    left_out = (*tree.left_out, *_empty_folders(tree, depth))
    if depth == 2:
        base = root.resolve().parent
        tree = replace(tree, left_out=left_out).nested_in(root.resolve().name)
        left_out = tree.left_out
    classes = tuple(sorted({file.parts[1] for file in tree.images}))
    labels = {name: label for label, name in enumerate(classes)}
    images: dict[str, list[Image]] = {}
    for file in tree.images:  # sorted
        name = file.as_posix()
        image = Image(name, name, labels[file.parts[1]], base / file, background)
        images.setdefault(file.parts[0], []).append(image)
    return Listing(classes, tuple(Domain(name, tuple(group)) for name, group in images.items()), left_out)


def _empty_folders(tree: Tree, depth: int) -> Iterator[LeftOut]:
    """Folders at class or domain level without images.

    An error if images were expected: the folder is empty, holds images of unsupported formats, or folders named like
    classes.
    """
    used = {parent for image in tree.images for parent in image.parents}
    classes = {image.parent.name for image in tree.images}
    reasons_in: dict[Name, set[str]] = {}  # folder to the reasons of its files left out
    for entry in tree.left_out:
        for parent in Name(entry.name).parents:
            reasons_in.setdefault(parent, set()).add(entry.reason)
    subfolders: dict[Name, set[str]] = {}
    for folder in tree.folders:
        subfolders.setdefault(folder.parent, set()).add(folder.name)
    for folder in tree.folders:
        level = len(folder.parts)
        if level < depth and folder not in used and (level == 1 or folder.parent in used):
            reasons, children = reasons_in.get(folder, set()) - {HIDDEN}, subfolders.get(folder, set())
            expected = reasons != {NOT_AN_IMAGE} if reasons else not children or bool(children & classes)
            reason = NO_IMAGES if not expected else EMPTY_CLASS if level == depth - 1 else EMPTY_DOMAIN
            yield LeftOut(f"{folder}/", reason, is_error=expected)


def _depth(root: Path, images: Sequence[Name]) -> int:
    """2 for CLASS/image, 3 for DOMAIN/CLASS/image."""
    example = {len(image.parts): image for image in reversed(images)}
    wrong = [image for depth, image in sorted(example.items()) if depth not in (2, 3)]
    if wrong:
        raise DataError(f"{root} has images at a wrong depth: {listed(map(str, wrong))}", LAYOUTS)
    if len(example) > 1:
        raise DataError(
            f"{root} has images at two depths: {listed([str(example[2])])} as in CLASS/image, "
            f"{listed([str(example[3])])} as in DOMAIN/CLASS/image",
            LAYOUTS,
        )
    return next(iter(example))
