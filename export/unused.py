"""Changed settings that have no effect on the exported files."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit import recipe
from toolkit.export import TARGET_SETTINGS, target


def unused_settings(settings: recipe.Export) -> list[str]:
    """One message for each changed setting that has no effect."""
    defaults = recipe.Export()
    return [
        f"export.{name}={_formatted(getattr(settings, name))} has no effect: {reason}"
        for name, reason in _without_effect(settings)
        if getattr(settings, name) != getattr(defaults, name)
    ]


def _without_effect(settings: recipe.Export) -> Iterator[tuple[str, str]]:
    """Names of unused settings, with the reason."""
    used = {setting for name in settings.targets for setting in target(name).used_settings}
    for name in TARGET_SETTINGS:
        if name not in used:
            yield name, f"not used for {', '.join(settings.targets)}"
    if settings.precision == "fp32":
        yield "calibration_images", "fp32 needs no calibration"
        yield "calibration_domains", "fp32 needs no calibration"
    if settings.precision != "int8":
        yield "quantize_attention", f"it applies to int8, not to {settings.precision}"


def _formatted(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
