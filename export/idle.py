"""Settings that change nothing in what is written: for other targets than the chosen ones, or for another precision."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit import recipe
from toolkit.export import OWN_SETTINGS, target


def idle(settings: recipe.Export) -> list[str]:
    """What a person should know of settings that were changed and have no effect, a line each."""
    usual = recipe.Export()
    return [
        f"export.{name}={_shown(getattr(settings, name))} changes nothing: {why}"
        for name, why in _without_effect(settings)
        if getattr(settings, name) != getattr(usual, name)
    ]


def _without_effect(settings: recipe.Export) -> Iterator[tuple[str, str]]:
    """Settings that are not read, and why."""
    read = {name for chosen in settings.targets for name in target(chosen).reads}
    for name in OWN_SETTINGS:
        if name not in read:
            yield name, f"it is not for {', '.join(settings.targets)}"
    if settings.precision == "fp32":
        yield "calibration_images", "fp32 needs none"
        yield "calibration_domains", "fp32 needs no images"
    if settings.precision != "int8":
        yield "quantize_attention", f"it is for int8, not for {settings.precision}"


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
