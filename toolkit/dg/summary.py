"""Summary of a dataset: its images, and the files that are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.characters import counted, listed, printable
from toolkit.dg.left_out import by_reason, descriptions

if TYPE_CHECKING:  # the report reads the record without loading the dataset code
    from toolkit.dg.domains import Domains


@dataclass(frozen=True)
class DataSummary:
    """`data.json` of a trained model: the images that were used, and the files that were left out."""

    domains: dict[str, int]
    """Number of images by domain."""
    held_out: str | None
    classes: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]
    """Files and folders that are not used, by reason."""
    remarks: dict[str, int]
    """Number of images by conversion, of those that are not plain 8-bit RGB."""
    notes: tuple[str, ...]
    """Warnings for the user."""
    schema: int = 1


def summarise(domains: Domains) -> DataSummary:
    """The summary of a dataset."""
    return DataSummary(
        domains={domain.name: len(domain.images) for domain in domains.domains},
        held_out=domains.held_out,
        classes=domains.classes,
        left_out=by_reason(domains.left_out),
        remarks=dict(domains.remarks),
        notes=tuple(_unvalidated(domains)),
    )


def lines_of(summary: DataSummary) -> list[str]:
    """The summary as text: counts, files left out by reason, conversions, warnings."""
    domains = summary.domains
    by_domain = ", ".join(f"{printable(name)} {count:,}" for name, count in domains.items() if name != summary.held_out)
    if summary.held_out is not None:
        by_domain += f"; held out: {printable(summary.held_out)} {domains[summary.held_out]:,}"
    counts = (
        f"{counted(len(summary.domains), 'domain')} ({by_domain}), "
        f"{counted(len(summary.classes), 'class', 'classes')}, {counted(sum(summary.domains.values()), 'image')}"
    )
    remarks = [f"{counted(count, 'image')}: {remark}" for remark, count in summary.remarks.items()]
    return [counts, *descriptions(summary.left_out), *remarks, *summary.notes]


def _unvalidated(domains: Domains) -> Iterator[str]:
    """Warnings for classes without validation images in a domain, which its accuracies do not cover."""
    validation = domains.selection_images()
    for domain in domains.sources:
        validated = {image.label for image in validation[domain.name]}
        missing = [name for label, name in enumerate(domains.classes) if label not in validated]
        if missing:
            classes = counted(len(missing), "class", "classes")
            yield (
                f"{classes} with a single image in domain {printable(domain.name)}, used for training and not "
                f"validated: {listed(missing)}"
            )
