"""The files below a folder: which are pictures, and why the others are none. Nothing but names and links is looked at,
and the first bytes of a file whose name does not say that it is a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from toolkit.dg import image_kinds
from toolkit.dg.left_out import LeftOut
from toolkit.dg.picture import can_read, is_picture, suffixes
from toolkit.dg.unreadable import why_not_opened
from toolkit.errors import DataError

HIDDEN = "hidden, or the system's own"
NO_PICTURE = "no picture"
LITTER = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found")
)
"""What systems leave in folders under names that do not begin with a dot, in lower case."""
NOT_READ = frozenset((
    ".avif", ".webp", ".jp2", ".j2k", ".jxl", ".heic", ".heif", ".hif", ".svg", ".svgz", ".psd", ".psb", ".xcf", ".ai",
    ".eps", ".ico", ".icns", ".dds", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf",
    ".pef", ".srw", ".raw", ".fits", ".dcm", ".wmf", ".emf", ".3fr", ".iiq", ".kdc", ".dcr", ".erf", ".mef", ".mos",
    ".nrw", ".rwl", ".sr2", ".fff",
))  # fmt: skip
"""Suffixes of pictures that are left out, where they are not among `picture.suffixes`."""
CONTAINER = "TIFF"
"""How raw files of cameras begin as well, which are not read."""
DEEPEST = 8
"""Levels of folders: links can make a tree endless without a circle."""

Name: TypeAlias = PurePosixPath
"""A path below the root, which is "."."""


@dataclass(frozen=True)
class Tree:
    """What is below a folder."""

    images: tuple[Name, ...]
    """Sorted by their parts."""
    folders: tuple[Name, ...]
    left_out: tuple[LeftOut, ...]

    def below(self, name: str) -> Tree:
        """All of it inside a folder of this name."""
        return Tree(
            images=tuple(Name(name, image) for image in self.images),
            folders=tuple(Name(name, folder) for folder in self.folders),
            left_out=tuple(replace(each, name=f"{name}/{each.name}") for each in self.left_out),
        )


def list_tree(root: Path) -> Tree:
    """Everything below a folder; links are followed. Raises DataError where `root` is no folder that can be opened."""
    try:
        os.scandir(root).close()
    except NotADirectoryError:
        raise DataError(f"{root} is not a folder", "name a folder of images, or digits") from None
    except (OSError, ValueError) as error:  # ValueError: no path at all, as with a zero byte
        why = why_not_opened(error, root) if isinstance(error, OSError) else "no path"
        why = "not there" if why == "no longer there" else why
        raise DataError(f"{root} is {why}", "name a folder of images, or digits") from None
    walk = _Walk(root)
    walk.enter(Name(), ())
    images = sorted(walk.images, key=lambda image: image.parts)
    return Tree(tuple(images), tuple(walk.folders), tuple(walk.left_out))


@dataclass(frozen=True)
class _Walk:
    root: Path
    images: list[Name] = field(default_factory=list)
    folders: list[Name] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def enter(self, folder: Name, above: tuple[tuple[int, int], ...]) -> None:
        """Take in a folder; `above` are the devices and inodes of those it is in."""
        place = self.root / folder
        try:
            found = place.stat()
            itself = (found.st_dev, found.st_ino)
            if itself in above or len(above) > DEEPEST:
                self._leave(f"{folder}/", "a link in a circle" if itself in above else f"below {DEEPEST} folders")
                return
            with os.scandir(place) as entries:
                content = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._leave(f"{folder}/", why_not_opened(error, place))
            return
        if above:
            self.folders.append(folder)
        for entry in content:
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                self._leave(folder / entry.name, HIDDEN, fault=False)
            else:
                self._take(folder / entry.name, entry, (*above, itself))

    def _take(self, name: Name, entry: os.DirEntry[str], above: tuple[tuple[int, int], ...]) -> None:
        try:
            if entry.is_dir():
                self.enter(name, above)
                return
            if entry.is_file():
                self._take_file(name)
                return
            entry.stat()  # raises for a link to nothing
            why = "not a file but a device or a pipe"
        except OSError as error:
            why = why_not_opened(error, self.root / name)
        suffix = name.suffix.lower()
        if not suffix or suffix in suffixes() or suffix in NOT_READ:  # for a picture, or for a folder of them
            self._leave(name, why)
        else:
            self._leave(name, NO_PICTURE, fault=False)

    def _take_file(self, name: Name) -> None:
        suffix = name.suffix.lower()
        if suffix in suffixes():
            self.images.append(name)
            return
        path = self.root / name
        try:
            head = image_kinds.head_of(path)
        except OSError as error:
            self._leave(name, why_not_opened(error, path), fault=not suffix)
            return
        if not suffix and (image_kinds.format_of(head) or is_picture(path)):
            self.images.append(name)
        else:
            reason, fault = _why_not(suffix, head)
            self._leave(name, reason, fault)

    def _leave(self, name: Name | str, reason: str, fault: bool = True) -> None:
        self.left_out.append(LeftOut(str(name), reason, fault))


def _why_not(suffix: str, head: bytes) -> tuple[str, bool]:
    """Why a file with this suffix and these first bytes is passed over, and whether that is a fault."""
    kind, listed = image_kinds.format_of(head), suffix in NOT_READ
    if kind and can_read(kind) and not (listed and kind == CONTAINER):
        return f"an image ({kind}) under a suffix that is not read", True
    other = suffix if listed else kind or image_kinds.other_kind(head)
    if listed or kind or other in image_kinds.NOT_READ:
        return f"{other}, a format that is not read", False
    return NO_PICTURE, False
