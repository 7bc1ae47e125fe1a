"""What of a data folder is not used, and how that is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toolkit.characters import listed


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not used."""

    name: str
    """As an image's; a folder's ends with "/"."""
    reason: str
    fault: bool = True
    """Whether it was meant to be used, as far as can be seen: a user must have asked to go on without it."""


def by_reason(left_out: Iterable[LeftOut]) -> dict[str, tuple[str, ...]]:
    """Reasons, those of faults first, and the names they are said of."""
    found: dict[str, list[str]] = {}
    for each in sorted(left_out, key=lambda each: (not each.fault, each.reason, each.name)):
        found.setdefault(each.reason, []).append(each.name)
    return {reason: tuple(names) for reason, names in found.items()}


def told(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """For each reason, how many are left out, why, and which."""
    return [f"{len(names)} left out, {reason}: {listed(names)}" for reason, names in left_out.items()]
