"""What a data set is made of, and what of its folder it leaves out, said in lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.characters import counted, listed, printable
from toolkit.dg.left_out import by_reason, told
from toolkit.records import SCHEMA

if TYPE_CHECKING:  # a report that reads the record needs no more
    from toolkit.dg.domains import Domains


@dataclass(frozen=True)
class DataSummary:
    """`data.json` beside a trained model: which images it was made from, and what of their folder was not used."""

    domains: dict[str, int]
    """Domain to the number of its images."""
    held_out: str | None
    classes: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]
    """A reason, and the files and folders that are not used because of it."""
    remarks: dict[str, int]
    """What was done to pictures that are not plain RGB, and to how many."""
    notes: tuple[str, ...]
    """What a user should know."""
    schema: int = SCHEMA


def summarise(domains: Domains) -> DataSummary:
    return DataSummary(
        domains={domain.name: len(domain.images) for domain in domains.domains},
        held_out=domains.held_out,
        classes=domains.classes,
        left_out=by_reason(domains.left_out),
        remarks=dict(domains.remarks),
        notes=tuple(_unvalidated(domains)),
    )


def lines_of(summary: DataSummary) -> list[str]:
    """Counts first, then what is left out and why, what was done to pictures, and what a user should know."""
    domains = summary.domains
    each = ", ".join(f"{printable(name)} {count:,}" for name, count in domains.items() if name != summary.held_out)
    if summary.held_out is not None:
        each += f"; held out: {printable(summary.held_out)} {domains[summary.held_out]:,}"
    counts = (
        f"{counted(len(summary.domains), 'domain')} ({each}), {counted(len(summary.classes), 'class', 'classes')}, "
        f"{counted(sum(summary.domains.values()), 'image')}"
    )
    remarks = [f"{counted(count, 'image')}: {remark}" for remark, count in summary.remarks.items()]
    return [counts, *told(summary.left_out), *remarks, *summary.notes]


def _unvalidated(domains: Domains) -> Iterator[str]:
    """Classes whose images are all trained on in a domain, so that its accuracies say nothing of them."""
    seen = domains.selection_images()
    for domain in domains.sources:
        there = {image.label for image in seen[domain.name]}
        alone = [name for label, name in enumerate(domains.classes) if label not in there]
        if alone:
            classes = counted(len(alone), "class", "classes")
            yield (
                f"{classes} with one image in domain {printable(domain.name)}, trained on and never validated: "
                f"{listed(alone)}"
            )
