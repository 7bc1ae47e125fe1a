"""What of a data folder is not used, and how that is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

NAMED = 5
"""Names shown of those that have one reason."""


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


def listed(names: Iterable[str]) -> str:
    """The first few names."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(shown, names[:NAMED])) + more


def shown(name: str) -> str:
    """A name fit for a terminal: it may hold line breaks, commands to the terminal, or bytes that are no text."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in name)
