"""Changed settings that have no effect on the exported files."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit import recipe


def unused_settings(settings: recipe.Export) -> list[str]:
    """One message for each changed setting that has no effect."""
    defaults = recipe.Export()
    shared = [
        f"export.{name}={_formatted(getattr(settings, name))} has no effect: {reason}"
        for name, reason in _without_effect(settings)
        if getattr(settings, name) != getattr(defaults, name)
    ]
    return shared + list(_of_other_targets(settings))


def effective(settings: recipe.Export) -> recipe.Export:
    """The settings without those that have no effect, which are reset to their defaults."""
    defaults = recipe.Export()
    return settings.model_copy(update={name: getattr(defaults, name) for name, _ in _without_effect(settings)})


def _without_effect(settings: recipe.Export) -> Iterator[tuple[str, str]]:
    """Names of unused settings that all targets share, with the reason."""
    if settings.precision == "fp32":
        yield "calibration_images", "fp32 needs no calibration"
        yield "calibration_domains", "fp32 needs no calibration"
    if settings.precision != "int8":
        yield "quantize_attention", f"it applies to int8, not to {settings.precision}"


def _of_other_targets(settings: recipe.Export) -> Iterator[str]:
    """Messages about changed settings that belong only to targets that are not exported."""
    used = {name for own in settings.chosen().values() for name in type(own).model_fields}
    unused: dict[tuple[str, str], list[str]] = {}
    for name in sorted(settings.plugin_names() - set(settings.targets)):
        if own := settings.own(name):
            for setting, value in own.model_dump(exclude_defaults=True).items():
                if setting not in used:
                    unused.setdefault((setting, _formatted(value)), []).append(f"export.{name}.{setting}")
    for (_, value), settings_set in unused.items():
        yield f"{' and '.join(settings_set)}={value} has no effect: not used for {', '.join(settings.targets)}"


def _formatted(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
