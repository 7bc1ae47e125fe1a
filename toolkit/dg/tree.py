"""Directory tree of a dataset: image files, and other files with the reason why they are not used.

Reads names and links only, and the first bytes of files without an image suffix.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from toolkit.dg import image_kinds
from toolkit.dg.decoding import is_image, is_supported, suffixes
from toolkit.dg.left_out import LeftOut
from toolkit.dg.unreadable import MISSING, open_failure
from toolkit.errors import DataError

HIDDEN = "hidden or system file"
NOT_AN_IMAGE = "not an image file"
SYSTEM_FILES = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found")
)
"""Files that operating systems create under names without a leading dot, in lower case."""
UNSUPPORTED_SUFFIXES = frozenset((
    ".avif", ".webp", ".jp2", ".j2k", ".jxl", ".heic", ".heif", ".hif", ".svg", ".svgz", ".psd", ".psb", ".xcf", ".ai",
    ".eps", ".ico", ".icns", ".dds", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf",
    ".pef", ".srw", ".raw", ".fits", ".dcm", ".wmf", ".emf", ".3fr", ".iiq", ".kdc", ".dcr", ".erf", ".mef", ".mos",
    ".nrw", ".rwl", ".sr2", ".fff",
))  # fmt: skip
"""Suffixes of image files that are left out unless they are among `decoding.suffixes`."""
RAW_CONTAINER = "TIFF"
"""Format whose signature camera raw files share."""
MAX_DEPTH = 8
"""Maximum depth of folders: links can make a tree endless without being circular."""

Name: TypeAlias = PurePosixPath
"""A path relative to the root."""


@dataclass(frozen=True)
class Tree:
    """Contents of a folder, recursively."""

    images: tuple[Name, ...]
    """Sorted by path components."""
    folders: tuple[Name, ...]
    left_out: tuple[LeftOut, ...]

    def nested_in(self, name: str) -> Tree:
        """The tree with all paths inside a folder of this name."""
        return Tree(
            images=tuple(Name(name, image) for image in self.images),
            folders=tuple(Name(name, folder) for folder in self.folders),
            left_out=tuple(replace(entry, name=f"{name}/{entry.name}") for entry in self.left_out),
        )


def list_tree(root: Path) -> Tree:
    """List a folder recursively, following links. Raises DataError if `root` is not a folder or cannot be opened."""
    try:
        os.scandir(root).close()
    except NotADirectoryError:
        raise DataError(f"{root} is not a folder", "give a folder of images, or digits") from None
    except (OSError, ValueError) as error:  # ValueError: an invalid path, such as one with a zero byte
        reason = open_failure(error, root) if isinstance(error, OSError) else "invalid path"
        problem = "does not exist" if reason == MISSING else f"cannot be used: {reason}"
        raise DataError(f"{root} {problem}", "give a folder of images, or digits") from None
    walk = _Walk(root)
    walk.enter(Name(), ())
    images = sorted(walk.images, key=lambda image: image.parts)
    return Tree(tuple(images), tuple(walk.folders), tuple(walk.left_out))


@dataclass(frozen=True)
class _Walk:
    """Recursive listing; collects results in its fields."""

    root: Path
    images: list[Name] = field(default_factory=list)
    folders: list[Name] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def enter(self, folder: Name, above: tuple[tuple[int, int], ...]) -> None:
        """List a folder; `above` holds (device, inode) of its parents."""
        path = self.root / folder
        try:
            status = path.stat()
            inode = (status.st_dev, status.st_ino)
            if inode in above or len(above) > MAX_DEPTH:
                self._leave_out(
                    f"{folder}/", "circular link" if inode in above else f"more than {MAX_DEPTH} folders deep"
                )
                return
            with os.scandir(path) as entries:
                content = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._leave_out(f"{folder}/", open_failure(error, path))
            return
        if above:
            self.folders.append(folder)
        for entry in content:
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
                self._leave_out(folder / entry.name, HIDDEN, is_error=False)
            else:
                self._visit(folder / entry.name, entry, (*above, inode))

    def _visit(self, name: Name, entry: os.DirEntry[str], above: tuple[tuple[int, int], ...]) -> None:
        try:
            if entry.is_dir():
                self.enter(name, above)
                return
            if entry.is_file():
                self._visit_file(name)
                return
            entry.stat()  # raises for a broken link
            reason = "device or pipe"
        except OSError as error:
            reason = open_failure(error, self.root / name)
        suffix = name.suffix.lower()
        if not suffix or suffix in suffixes() or suffix in UNSUPPORTED_SUFFIXES:  # probably an image or a folder
            self._leave_out(name, reason)
        else:
            self._leave_out(name, NOT_AN_IMAGE, is_error=False)

    def _visit_file(self, name: Name) -> None:
        suffix = name.suffix.lower()
        if suffix in suffixes():
            self.images.append(name)
            return
        path = self.root / name
        try:
            header = image_kinds.read_header(path)
        except OSError as error:
            self._leave_out(name, open_failure(error, path), is_error=not suffix)
            return
        if not suffix and (image_kinds.format_of(header) or is_image(path)):
            self.images.append(name)
        else:
            self._leave_out(name, *_reason(suffix, header))

    def _leave_out(self, name: Name | str, reason: str, is_error: bool = True) -> None:
        self.left_out.append(LeftOut(str(name), reason, is_error))


def _reason(suffix: str, header: bytes) -> tuple[str, bool]:
    """The reason why a file with this suffix and header is left out, and whether that is an error."""
    kind, listed = image_kinds.format_of(header), suffix in UNSUPPORTED_SUFFIXES
    if kind and is_supported(kind) and not (listed and kind == RAW_CONTAINER):
        return f"{kind} image with an unsupported suffix", True
    other = suffix if listed else kind or image_kinds.other_kind(header)
    if listed or kind or other in image_kinds.UNSUPPORTED_IMAGES:
        return f"unsupported format {other}", False
    return NOT_AN_IMAGE, False
