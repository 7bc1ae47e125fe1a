"""A data set of domains: what is trained on, what is selected on, and what accuracies are reported for.

The protocol is DomainBed's (Gulrajani and Lopez-Paz, 2021): one domain is held out and never trained on;
of each other domain a share is kept for validation, and on these shares alone the state of training is selected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from toolkit import recipe
from toolkit.characters import is_url
from toolkit.dg.digits import draw_digits
from toolkit.dg.folders import Listing, list_folder
from toolkit.dg.image import Domain, Image
from toolkit.dg.left_out import LeftOut, by_reason, told
from toolkit.dg.split import validation_groups
from toolkit.errors import DataError, UnknownName

DIGITS = "digits"
"""The path that stands for the built-in images."""
LOST_CLASS = "a class of which no image is left"


@dataclass(frozen=True)
class Domains:
    """An immutable data set. Made by `read_domains`."""

    classes: tuple[str, ...]
    """Sorted; an image's label is an index into it."""
    domains: tuple[Domain, ...]
    """Sorted by name."""
    held_out: str | None
    """The domain that is never trained on; None: all are."""
    validation_share: float
    seed: int
    left_out: tuple[LeftOut, ...] = ()
    """What else the folder holds, and why it is not used."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """What was done to pictures that are not plain RGB, and to how many."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            only = f"there is only one class, {self.classes[0]}" if self.classes else "there is no image left"
            raise DataError(f"{only}{_instead(self.left_out)}", "a classifier needs images of at least two")
        _require_all_classes(self.classes, self.domains, self.left_out)
        for name, images in self.evaluation_images().items():
            if not images:
                raise DataError(
                    f"domain {name} has no image that is not trained on: one image a class leaves none for validation",
                    "add images to it, or hold this domain out",
                )

    @property
    def sources(self) -> tuple[Domain, ...]:
        """The domains that are trained on."""
        return tuple(domain for domain in self.domains if domain.name != self.held_out)

    def training_images(self) -> dict[str, tuple[Image, ...]]:
        """The training part of each source domain."""
        return dict(self._training_parts)

    def selection_images(self) -> dict[str, tuple[Image, ...]]:
        """The validation part of each source domain, the only images that a state may be selected on."""
        return {domain.name: self._unseen(domain) for domain in self.sources}

    def evaluation_images(self) -> dict[str, tuple[Image, ...]]:
        """For every domain the images whose group is in no training part: accuracies are reported on these."""
        return {domain.name: self._unseen(domain) for domain in self.domains}

    def fingerprint(self) -> str:
        """Hash of everything that decides which images are used and how: names, labels, split, and their stamps."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        content = {
            "classes": self.classes,
            "images": [(image.name, image.label, image.stamp) for part in self.domains for image in part.images],
            "split": (self.held_out, self.validation_share, self.seed),
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def files(self) -> str:
        """Hash of the images alone, by name and stamp: what is found out about files does not hang on split or seed."""
        content = sorted((image.name, image.stamp) for part in self.domains for image in part.images)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def without(self, left_out: Iterable[LeftOut]) -> Domains:
        """The data set without these images, and without the classes of which no image is left in any domain. Raises
        DataError for a class that is left in some domains only."""
        left_out = tuple(left_out)
        names = frozenset(each.name for each in left_out)
        parts = {part.name: [image for image in part.images if image.name not in names] for part in self.domains}
        labels = sorted({image.label for images in parts.values() for image in images})
        lost = [name for label, name in enumerate(self.classes) if label not in labels]
        moved = {label: place for place, label in enumerate(labels)}
        return replace(
            self,
            classes=tuple(self.classes[label] for label in labels),
            domains=tuple(
                Domain(name, tuple(replace(image, label=moved[image.label]) for image in images))
                for name, images in parts.items()
            ),
            left_out=(*self.left_out, *left_out, *(LeftOut(name, LOST_CLASS) for name in lost)),
        )

    @cached_property
    def _training_parts(self) -> dict[str, tuple[Image, ...]]:
        parts = {}
        for domain in self.sources:
            kept = validation_groups(domain.images, self.validation_share, self.seed)
            parts[domain.name] = tuple(image for image in domain.images if image.group not in kept)
        return parts

    @cached_property
    def _training_groups(self) -> frozenset[str]:
        return frozenset(image.group for part in self._training_parts.values() for image in part)

    def _unseen(self, domain: Domain) -> tuple[Image, ...]:
        return tuple(image for image in domain.images if image.group not in self._training_groups)


def read_domains(settings: recipe.Data, seed: int) -> Domains:
    """The data set that a recipe names. Files are listed, not opened: see `broken.find_broken`.

    Raises DataError for a folder that cannot be learned from, UnknownName for a domain to hold out that is not there.
    """
    if settings.path == DIGITS:
        listing = Listing(*draw_digits())
    else:
        listing = list_folder(_folder(settings.path), settings.background)
    return Domains(
        classes=listing.classes,
        domains=listing.domains,
        held_out=_domain_to_hold_out(settings, listing),
        validation_share=settings.validation_share,
        seed=seed,
        left_out=listing.left_out,
    )


def _folder(path: str) -> Path:
    if is_url(path):
        raise DataError(f"{path} is an address, and images are read from a folder here", "download and unpack it first")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{path} is not there: no user of that name", "name a folder of images, or digits") from None


def _domain_to_hold_out(settings: recipe.Data, listing: Listing) -> str | None:
    wanted, names = settings.hold_out, [domain.name for domain in listing.domains]
    if wanted == "none":
        return None
    if len(names) == 1:
        raise DataError(
            f"{settings.path} has one domain, {names[0]}, so none can be held out",
            "train on all of it: --hold-out none",
        )
    if wanted is None:
        if settings.path == DIGITS:
            return names[-1]
        raise DataError(
            f"no domain of {settings.path} is named to be held out",
            f"choose one with --hold-out: {', '.join(names)}; or none to train on all",
        )
    if wanted not in names:
        if inside := [each for each in listing.left_out if each.name.startswith(f"{wanted}/")]:
            raise DataError(f"domain {wanted}, to be held out, has no images{_instead(inside)}", "add images to it")
        raise UnknownName("domain", wanted, names)
    return wanted


def _require_all_classes(classes: tuple[str, ...], domains: tuple[Domain, ...], left_out: tuple[LeftOut, ...]) -> None:
    """Raises DataError naming the classes that a domain lacks, what is there instead, and who has them."""
    present = {domain.name: {image.label for image in domain.images} for domain in domains}
    faults = []
    for name, labels in present.items():
        missing = [label for label in range(len(classes)) if label not in labels]
        if missing:
            having = [other for other, found in present.items() if found.issuperset(missing)]
            folders = tuple(f"{name}/{classes[label]}/" for label in missing)
            faults.append(
                f"domain {name} has no images of {', '.join(classes[label] for label in missing)}"
                + (f", which {', '.join(having)} {'has' if len(having) == 1 else 'have'}" if having else "")
                + _instead(each for each in left_out if each.name.startswith(folders))
            )
    if faults:
        raise DataError("; ".join(faults), "every domain needs images of every class: add them, or leave the class out")


def _instead(left_out: Iterable[LeftOut]) -> str:
    """What is left out where images were to be."""
    lines = told(by_reason(left_out))
    return f" ({'; '.join(lines)})" if lines else ""
