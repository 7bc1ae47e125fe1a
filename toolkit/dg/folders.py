"""Images from a folder: DOMAIN/CLASS/image, or CLASS/image as one domain named after the folder.

Files are only listed here, not opened. Hidden files and folders are passed over, and so are files that are no images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from torchvision.datasets.folder import IMG_EXTENSIONS

from toolkit.dg.image import Domain, Image
from toolkit.errors import DataError

LAYOUTS = "expected DOMAIN/CLASS/image, or CLASS/image for a single domain"


def list_folder(root: Path) -> tuple[tuple[str, ...], tuple[Domain, ...]]:
    """Classes and domains of a folder, both sorted by name.

    Raises DataError for a folder that is missing, holds no images, or has images at the wrong depth or at two depths.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} is {'not a folder' if root.exists() else 'not there'}", "name a folder of images, or digits"
        )
    files = sorted(_image_files(root), key=lambda file: file.parts)
    if not files:
        raise DataError(f"{root} holds no images ({', '.join(IMG_EXTENSIONS)})", LAYOUTS)
    if _depth(root, files) == 2:
        files = [PurePosixPath(root.resolve().name, file) for file in files]
        folder = root.resolve().parent
    else:
        folder = root
    classes = tuple(sorted({file.parts[1] for file in files}))
    domains = tuple(
        Domain(name, tuple(_image(folder, file, classes) for file in files if file.parts[0] == name))
        for name in sorted({file.parts[0] for file in files})
    )
    return classes, domains


def _image(folder: Path, file: PurePosixPath, classes: tuple[str, ...]) -> Image:
    name = file.as_posix()
    return Image(name=name, group=name, label=classes.index(file.parts[1]), source=folder / file)


def _image_files(root: Path) -> Iterator[PurePosixPath]:
    """Paths below `root`; links are followed, four levels at most, so that a circle of links ends."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        below = Path(folder).relative_to(root)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")] if len(below.parts) < 3 else []
        for file in files:
            if not file.startswith(".") and file.lower().endswith(IMG_EXTENSIONS):
                yield PurePosixPath(below.as_posix()) / file


def _depth(root: Path, files: list[PurePosixPath]) -> int:
    """2 for CLASS/image, 3 for DOMAIN/CLASS/image."""
    example = {len(file.parts): file for file in reversed(files)}
    wrong = [str(file) for depth, file in sorted(example.items()) if depth not in (2, 3)]
    if wrong:
        raise DataError(f"{root} has images where none are expected: {', '.join(wrong)}", LAYOUTS)
    if len(example) > 1:
        raise DataError(
            f"{root} has images at two depths: {example[2]} as in CLASS/image, {example[3]} as in DOMAIN/CLASS/image",
            LAYOUTS,
        )
    return next(iter(example))
