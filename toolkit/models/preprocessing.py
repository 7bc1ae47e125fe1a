"""How images are prepared for a model: as the settings say, else as a file beside the weights says, else as timm says.

The file is the first of these that is there: `model.json` of a model that this toolkit has saved, Hugging Face's
`preprocessor_config.json`, the `config.json` that timm saves, `args.yaml` of timm's training. What it asks for and is
not done here is an error, never left out. Where there is none, timm's crop is not taken: the whole image is squashed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg

from toolkit import recipe, strict_json, yaml_file
from toolkit.errors import BadInput, WeightsError
from toolkit.models import huggingface, weight_file
from toolkit.preprocessing import Preprocessing
from toolkit.wrong_settings import wanted

Settings: TypeAlias = dict[str, Any]
"""Those of `recipe.Model` that PARTS names, not checked yet; or any, as read from a file."""

PARTS = ("mean", "std", "interpolation", "crop", "crop_mode")


def preprocessing_of(settings: recipe.Model) -> Preprocessing:
    """How images are prepared for this model.

    Raises WeightsError for a file beside the weights that is damaged, or asks for what cannot be done.
    """
    found = beside(settings)
    base = found[1] if found else _timms(settings.name)
    named = ", ".join(f"model.{part}" for part in PARTS if getattr(settings, part) is not None)
    crops = _sets_crop(settings)
    return Preprocessing(
        mean=settings.mean or base.mean,
        std=settings.std or base.std,
        interpolation=settings.interpolation or base.interpolation,
        crop=(settings.crop or 1.0) if crops else base.crop,
        crop_mode=(settings.crop_mode or "center") if crops else base.crop_mode,
        origin="; else ".join(filter(None, (named, "" if _sets_all(settings) else base.origin))),
    )


def beside(settings: recipe.Model) -> tuple[Path, Preprocessing] | None:
    """The file beside the weights that says how images are prepared, and what it says; None where there is none, or
    nothing is left for it to say."""
    weights = weight_file.weights_path(settings)
    if weights is None or _sets_all(settings) or not weight_file.is_there(weights):  # which is said when they are read
        return None
    if ours := weight_file.record_beside(weights):
        return ours[0], replace(ours[1].preprocessing, origin=str(ours[0]))
    readers: dict[str, Callable[[Settings], Settings | None]] = {
        "preprocessor_config.json": huggingface.settings_in,
        "config.json": _in_config_of_timm,
        "args.yaml": lambda args: _in_args_of_timm(args, settings.name),
    }
    for name, read in readers.items():
        file = weights.parent / name
        if weight_file.is_there(file) and (found := _read(file, read)) is not None:
            return file, found
    return None


def _sets_crop(settings: recipe.Model) -> bool:
    """Crop and its mode are one choice: half of it is not taken from elsewhere."""
    return settings.crop is not None or settings.crop_mode is not None


def _sets_all(settings: recipe.Model) -> bool:
    return None not in (settings.mean, settings.std, settings.interpolation) and _sets_crop(settings)


def _timms(name: str) -> Preprocessing:
    """What timm has for a name, but the whole image."""
    return _checked({**_resolved(_config_of(name)), "crop": 1.0, "crop_mode": "squash"}, f"timm's {name}")


def _config_of(name: str) -> Settings:
    config = get_pretrained_cfg(name)
    return config.to_dict() if config else {}


def _resolved(config: Settings) -> Settings:
    """timm's config of a set of weights; what it does not say has timm's defaults."""
    found = resolve_data_config({"in_chans": 3}, config)
    return {**{part: found[part] for part in PARTS if part != "crop"}, "crop": found["crop_pct"]}


def _in_config_of_timm(content: Settings) -> Settings | None:
    """None for another library's config. Older ones are not nested."""
    config = content.get("pretrained_cfg") or (content if "architecture" in content else None)
    if config is not None and not isinstance(config, dict):
        raise ValueError(f"'pretrained_cfg' {config!r} holds no settings")
    return _resolved(config) if config else None


def _in_args_of_timm(args: Settings, name: str) -> Settings | None:
    """None for another program's arguments. What was not set is as timm has it for the model's name."""
    if "crop_pct" not in args:
        return None
    keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    return _resolved({**_config_of(name), **{key: args[key] for key in keys if args.get(key)}})


def _read(file: Path, read: Callable[[Settings], Settings | None]) -> Preprocessing | None:
    """What a file says, in our terms; None where it says nothing of images."""
    try:
        content = _parsed(file)
        found = read(content)
        return None if found is None else _checked(found, f"{file}{huggingface.remark(content)}")
    except (BadInput, ValueError, OverflowError) as error:
        said = f"how images are prepared cannot be taken from {file}: {error}"
        if isinstance(error, BadInput):  # which names the file
            said = f"{error.message}; it would say how images are prepared"
        raise WeightsError(
            said,
            "mend it, or set model.mean, model.std, model.interpolation and model.crop, and it is not read",
        ) from error


def _parsed(file: Path) -> Settings:
    """What a JSON or YAML file holds. Raises BadInput or ValueError for what is neither, or no settings."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    if not text.strip():
        raise ValueError("it is empty")
    parse = yaml_file.parse if file.suffix == ".yaml" else strict_json.parse
    found = parse(text, str(file))
    if not isinstance(found, dict):
        raise ValueError("it holds no settings")
    return found


def _checked(found: Settings, origin: str) -> Preprocessing:
    """Raises ValueError for what would not pass as settings."""
    try:
        said = recipe.Model.model_validate(found)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{fault['loc'][0]} {found[str(fault['loc'][0])]!r}: {wanted(fault)[0]}") from None
    return Preprocessing(**said.model_dump(include=set(PARTS)), origin=origin)
