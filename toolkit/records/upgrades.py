"""Conversion of older files, where defaults are not enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toolkit.records.artifact import Artifact, Fusion
from toolkit.records.bench import BenchReport, Measurement, Telemetry
from toolkit.records.model import ModelInfo
from toolkit.records.plan import PrunePlan

Content = dict[str, Any]
"""A record's JSON object, not validated yet."""


def _rename(old: str, new: str) -> Callable[[Content], None]:
    def upgrade(content: Content) -> None:
        if old in content and new not in content:
            content[new] = content.pop(old)

    return upgrade


def _type_options(content: Content) -> None:
    """The first artifacts had target-specific properties in a dict of options."""
    _rename("also", "extra_files")(content)
    if (options := content.pop("options", None)) is None:
        return
    size = content["inputs"][0]["shape"][0]
    if isinstance(size, int):
        content["batch"] = {"least": size, "usual": size, "most": size}
    elif "least_batch" in options:
        names = {"least": "least_batch", "usual": "usual_batch", "most": "largest_batch"}
        content["batch"] = {name: options[old] for name, old in names.items()}
    traits = ("builder_level", "version_compatible", "hardware_compatible")
    if all(name in options for name in traits):
        content["engine"] = {name: options[name] for name in traits}
    content |= {
        name: options[name] for name in ("opset", "attention", "compiled", "graph_difference") if name in options
    }


def _one_environment(content: Content) -> None:
    """The environment was a field of each measurement; it is now one field of the report."""
    for measurement in content.get("measurements", ()):
        environment = measurement.pop("environment", None)
        content.setdefault("environment", environment)


def _drop(*names: str) -> Callable[[Content], None]:
    def upgrade(content: Content) -> None:
        for name in names:
            content.pop(name, None)

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
    (Artifact, 1): _type_options,
    (BenchReport, 1): _one_environment,
    (Fusion, 1): _rename("mend", "hint"),
    (Measurement, 1): _drop("scenario", "energy_j"),
    (ModelInfo, 1): _collect_preprocessing,
    (PrunePlan, 1): _rename("met", "achieved"),
    (Telemetry, 1): _drop("load_average"),
}
"""Conversions from a schema to the next one, by kind and schema number. A record without a number has that of the
enclosing record."""
