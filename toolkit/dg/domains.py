"""Datasets of domains, split for training, model selection and evaluation.

The protocol is DomainBed's (Gulrajani and Lopez-Paz, 2021): one domain is held out and never trained on; a fraction of
each source domain is used for validation, and models are selected on these validation images only.
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
from toolkit.dg.left_out import LeftOut, by_reason, descriptions
from toolkit.dg.split import validation_groups
from toolkit.errors import DataError, UnknownName

DIGITS = "digits"
"""`data.path` of the built-in dataset."""
LOST_CLASS = "class without usable images"


@dataclass(frozen=True)
class Domains:
    """An immutable dataset; see `read_domains`."""

    classes: tuple[str, ...]
    """Class names, sorted; labels are indices into them."""
    domains: tuple[Domain, ...]
    """Sorted by name."""
    held_out: str | None
    """The domain that is never trained on; None if all domains are source domains."""
    validation_share: float
    seed: int
    left_out: tuple[LeftOut, ...] = ()
    """Other files and folders, which are not used."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """Number of images by conversion, of those that are not plain 8-bit RGB."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            problem = f"there is only one class, {self.classes[0]}" if self.classes else "no images are left"
            raise DataError(f"{problem}{_details(self.left_out)}", "a classifier needs images of at least two classes")
        _require_all_classes(self.classes, self.domains, self.left_out)
        for name, images in self.evaluation_images().items():
            if not images:
                raise DataError(
                    f"domain {name} has no images for validation: with one image per class, all are trained on",
                    "add images to it, or hold this domain out",
                )

    @property
    def sources(self) -> tuple[Domain, ...]:
        """The source domains, which are trained on."""
        return tuple(domain for domain in self.domains if domain.name != self.held_out)

    def training_images(self) -> dict[str, tuple[Image, ...]]:
        """Training images of each source domain."""
        return dict(self._training_splits)

    def selection_images(self) -> dict[str, tuple[Image, ...]]:
        """Validation images of each source domain, the only ones for model selection."""
        return {domain.name: self._not_trained_on(domain) for domain in self.sources}

    def evaluation_images(self) -> dict[str, tuple[Image, ...]]:
        """Images of every domain whose group is not trained on; accuracies are reported for these."""
        return {domain.name: self._not_trained_on(domain) for domain in self.domains}

    def fingerprint(self) -> str:
        """Hash of names, labels and stamps of all images, and of the split."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        content = {
            "classes": self.classes,
            "images": [(image.name, image.label, image.stamp) for domain in self.domains for image in domain.images],
            "split": (self.held_out, self.validation_share, self.seed),
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def with_hashes(self, sha256: Mapping[str, str]) -> Domains:
        """The dataset with known hashes of image files, by image name."""
        domains = tuple(
            Domain(domain.name, tuple(replace(image, sha256=sha256.get(image.name)) for image in domain.images))
            for domain in self.domains
        )
        return replace(self, domains=domains)

    def without(self, left_out: Iterable[LeftOut]) -> Domains:
        """The dataset without these images, and without classes that then have no images in any domain.

        Raises DataError for a class that only some domains still have.
        """
        left_out = tuple(left_out)
        names = frozenset(entry.name for entry in left_out)
        remaining = {
            domain.name: [image for image in domain.images if image.name not in names] for domain in self.domains
        }
        labels = sorted({image.label for images in remaining.values() for image in images})
        lost = [name for label, name in enumerate(self.classes) if label not in labels]
        new_label = {label: index for index, label in enumerate(labels)}
        return replace(
            self,
            classes=tuple(self.classes[label] for label in labels),
            domains=tuple(
                Domain(name, tuple(replace(image, label=new_label[image.label]) for image in images))
                for name, images in remaining.items()
            ),
            left_out=(*self.left_out, *left_out, *(LeftOut(name, LOST_CLASS) for name in lost)),
        )

    @cached_property
    def _training_splits(self) -> dict[str, tuple[Image, ...]]:
        splits = {}
        for domain in self.sources:
            validation = validation_groups(domain.images, self.validation_share, self.seed)
            splits[domain.name] = tuple(image for image in domain.images if image.group not in validation)
        return splits

    @cached_property
    def _training_groups(self) -> frozenset[str]:
        return frozenset(image.group for images in self._training_splits.values() for image in images)

    def _not_trained_on(self, domain: Domain) -> tuple[Image, ...]:
        return tuple(image for image in domain.images if image.group not in self._training_groups)


def read_domains(settings: recipe.Data, seed: int) -> Domains:
    """The dataset of a recipe. Files are listed but not opened; `image_check.check_images` opens them.

    Raises DataError for a folder that cannot be used, UnknownName for a held-out domain that does not exist.
    """
    if settings.path == DIGITS:
        listing = Listing(*draw_digits())
    else:
        listing = list_folder(_folder(settings.path), settings.background)
    return Domains(
        classes=listing.classes,
        domains=listing.domains,
        held_out=_held_out_domain(settings, listing),
        validation_share=settings.validation_share,
        seed=seed,
        left_out=listing.left_out,
    )


def _folder(path: str) -> Path:
    if is_url(path):
        raise DataError(f"{path} is a URL, but images are read from a local folder", "download and unpack it first")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{path} does not exist: there is no such user", "give a folder of images, or digits") from None


def _held_out_domain(settings: recipe.Data, listing: Listing) -> str | None:
    name, names = settings.hold_out, [domain.name for domain in listing.domains]
    if name == "none":
        return None
    if len(names) == 1:
        raise DataError(
            f"{settings.path} has only one domain, {names[0]}, so none can be held out",
            "train on it without a held-out domain: --hold-out none",
        )
    if name is None:
        if settings.path == DIGITS:
            return names[-1]
        raise DataError(
            f"no held-out domain is chosen for {settings.path}",
            f"choose one with --hold-out: {', '.join(names)}; or none to train on all",
        )
    if name not in names:
        if inside := [entry for entry in listing.left_out if entry.name.startswith(f"{name}/")]:
            raise DataError(f"the held-out domain {name} has no images{_details(inside)}", "add images to it")
        raise UnknownName("domain", name, names)
    return name


def _require_all_classes(classes: tuple[str, ...], domains: tuple[Domain, ...], left_out: tuple[LeftOut, ...]) -> None:
    """Raise DataError if a domain lacks classes, with the domains that have them and the files left out."""
    present = {domain.name: {image.label for image in domain.images} for domain in domains}
    errors = []
    for name, labels in present.items():
        missing = [label for label in range(len(classes)) if label not in labels]
        if missing:
            complete = [other for other, others in present.items() if others.issuperset(missing)]
            folders = tuple(f"{name}/{classes[label]}/" for label in missing)
            errors.append(
                f"domain {name} has no images of {', '.join(classes[label] for label in missing)}"
                + (f", which {', '.join(complete)} {'has' if len(complete) == 1 else 'have'}" if complete else "")
                + _details(entry for entry in left_out if entry.name.startswith(folders))
            )
    if errors:
        raise DataError(
            "; ".join(errors), "every domain needs images of every class: add them, or delete the class everywhere"
        )


def _details(left_out: Iterable[LeftOut]) -> str:
    """The files that are left out, in parentheses."""
    lines = descriptions(by_reason(left_out))
    return f" ({'; '.join(lines)})" if lines else ""
