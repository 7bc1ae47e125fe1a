"""Conversion of older files, where defaults are not enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toolkit.records.artifact import Artifact, Fusion
from toolkit.records.model import ModelInfo
from toolkit.records.plan import PrunePlan

Content = dict[str, Any]
"""A record's JSON object, not validated yet."""


def _rename(old: str, new: str) -> Callable[[Content], None]:
    def upgrade(content: Content) -> None:
        if old in content and new not in content:
            content[new] = content.pop(old)

    return upgrade


def _collect_preprocessing(content: Content) -> None:
    """The first models had mean, std and interpolation as fields, and images were always resized to squares."""
    if "preprocessing" not in content:
        moved = {name: content.pop(name) for name in ("mean", "std", "interpolation") if name in content}
        content["preprocessing"] = {
            **moved,
            "crop": 1.0,
            "crop_mode": "squash",
            "origin": f"timm's {content.get('name')}",
        }


UPGRADES: Mapping[tuple[type, int], Callable[[Content], None]] = {
    (Artifact, 1): _rename("also", "extra_files"),
    (Fusion, 1): _rename("mend", "hint"),
    (ModelInfo, 1): _collect_preprocessing,
    (PrunePlan, 1): _rename("met", "achieved"),
}
"""By kind and schema number: changes content of that schema to the next one. A record without a number has that of the
record around it."""
