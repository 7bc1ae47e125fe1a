"""Preprocessing of a model, from the settings, else from a file next to the weights, else from timm.

The file is the first of these that exists: this toolkit's `model.json`, Hugging Face's `preprocessor_config.json`,
timm's `config.json`, `args.yaml` of timm's training script. Unsupported options in it are errors. timm's defaults are
used without timm's crop: the whole image is squashed.
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
from toolkit.models.huggingface_folder import WHOLE, config_of, folder_of
from toolkit.preprocessing import Preprocessing
from toolkit.setting_errors import expected

Settings: TypeAlias = dict[str, Any]
"""Unvalidated settings: the FIELDS of `recipe.Model`, or the content of a file."""

FIELDS = ("mean", "std", "interpolation", "crop", "crop_mode")


def preprocessing_of(settings: recipe.Model) -> Preprocessing:
    """Preprocessing for this model.

    Raises WeightsError for a file next to the weights that is damaged or has unsupported options.
    """
    adjacent = adjacent_file(settings)
    base = adjacent[1] if adjacent else _defaults(settings.name)
    named = ", ".join(f"model.{field}" for field in FIELDS if getattr(settings, field) is not None)
    crops = _sets_crop(settings)
    return Preprocessing(
        mean=settings.mean or base.mean,
        std=settings.std or base.std,
        interpolation=settings.interpolation or base.interpolation,
        crop=(settings.crop or 1.0) if crops else base.crop,
        crop_mode=(settings.crop_mode or "center") if crops else base.crop_mode,
        origin="; else ".join(filter(None, (named, "" if _sets_all(settings) else base.origin))),
    )


def adjacent_file(settings: recipe.Model) -> tuple[Path, Preprocessing] | None:
    """The file next to the weights that defines preprocessing, with its content; None if there is none, or if the
    settings define everything."""
    folder = folder_of(settings.name) if settings.weights in ("hub", "none") else None
    weights = folder / WHOLE if folder else next(iter(weight_file.weights_files(settings)), None)
    if weights is None or _sets_all(settings):
        return None
    if folder is None and not weight_file.file_exists(weights):  # reading it raises the error
        return None
    if record := weight_file.adjacent_record(weights):
        return record[0], replace(record[1].preprocessing, origin=str(record[0]))
    readers: dict[str, Callable[[Settings], Settings | None]] = {
        "preprocessor_config.json": huggingface.recipe_settings,
        "config.json": _from_timm_config,
        "args.yaml": lambda args: _from_timm_args(args, settings.name),
    }
    for name, read in readers.items():
        file = weights.parent / name
        if weight_file.file_exists(file) and (preprocessing := _read(file, read)) is not None:
            return file, preprocessing
    return None


def _sets_crop(settings: recipe.Model) -> bool:
    """Whether crop or crop mode is set; they are used as a pair, never combined with another source's."""
    return settings.crop is not None or settings.crop_mode is not None


def _sets_all(settings: recipe.Model) -> bool:
    return None not in (settings.mean, settings.std, settings.interpolation) and _sets_crop(settings)


def _defaults(name: str) -> Preprocessing:
    """Preprocessing of transformers' image processor or timm's for a model name, but with the whole image."""
    if folder := folder_of(name):
        kind = str(config_of(folder).get("model_type"))
        settings = {**huggingface.default_settings(kind), "crop": 1.0, "crop_mode": "squash"}
        return _checked(settings, f"transformers' {kind}")
    config = _config_of(name)
    origin = f"timm's {name}" if config else "ImageNet's statistics, as the model has none of its own"
    return _checked({**_resolved(config), "crop": 1.0, "crop_mode": "squash"}, origin)


def _config_of(name: str) -> Settings:
    config = get_pretrained_cfg(name)
    return config.to_dict() if config else {}


def _resolved(config: Settings) -> Settings:
    """Settings from timm's config of pretrained weights, completed by timm's defaults."""
    timm_config = resolve_data_config({"in_chans": 3}, config)
    return {**{field: timm_config[field] for field in FIELDS if field != "crop"}, "crop": timm_config["crop_pct"]}


def _from_timm_config(content: Settings) -> Settings | None:
    """Settings from timm's config.json, nested or (in older versions) not; None for another library's file."""
    config = content.get("pretrained_cfg") or (content if "architecture" in content else None)
    if config is not None and not isinstance(config, dict):
        raise ValueError(f"'pretrained_cfg' = {config!r} is not a mapping")
    return _resolved(config) if config else None


def _from_timm_args(args: Settings, name: str) -> Settings | None:
    """Settings from args.yaml, completed by timm's for the model's name; None for another program's file."""
    if "crop_pct" not in args:
        return None
    keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    return _resolved({**_config_of(name), **{key: args[key] for key in keys if args.get(key)}})


def _read(file: Path, read: Callable[[Settings], Settings | None]) -> Preprocessing | None:
    """Preprocessing that a file defines; None if it defines none."""
    try:
        content = _parsed(file)
        settings = read(content)
        return None if settings is None else _checked(settings, f"{file}{huggingface.resize_note(content)}")
    except (BadInput, ValueError, OverflowError) as error:
        message = f"cannot read the preprocessing from {file}: {error}"
        if isinstance(error, BadInput):  # its message names the file
            message = f"cannot read the preprocessing: {error.message}"
        raise WeightsError(
            message,
            "repair the file, or set model.mean, model.std, model.interpolation and model.crop to ignore it",
        ) from error


def _parsed(file: Path) -> Settings:
    """Content of a JSON or YAML file. Raises BadInput or ValueError if it is invalid or not a mapping."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    if not text.strip():
        raise ValueError("it is empty")
    parse = yaml_file.parse if file.suffix == ".yaml" else strict_json.parse
    content = parse(text, str(file))
    if not isinstance(content, dict):
        raise ValueError("it does not contain settings")
    return content


def _checked(settings: Settings, origin: str) -> Preprocessing:
    """Validated preprocessing; ValueError for invalid settings."""
    try:
        model = recipe.Model.model_validate(settings)
    except ValidationError as error:
        details = error.errors()[0]
        name = str(details["loc"][0])
        raise ValueError(f"{name} = {settings[name]!r}: {expected(details)[0]}") from None
    return Preprocessing(**model.model_dump(include=set(FIELDS)), origin=origin)
