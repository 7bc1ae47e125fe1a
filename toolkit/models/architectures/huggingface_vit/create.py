"""Build a classifier of transformers from a folder, or from what `model.json` records. Nothing in a folder is executed.

transformers is an optional package, which is imported when a model is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.characters import listed
from toolkit.errors import UnsupportedModel, WeightsError, plainly
from toolkit.models.architectures.huggingface_vit.canonical import BACKBONES
from toolkit.models.huggingface_folder import CONFIG, Config
from toolkit.records import Setting

FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "mlp_ratio", "head_dim"),
    *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "layer_norm_eps"),
    *("image_size", "patch_size", "num_channels", "qkv_bias", "use_absolute_position_embeddings"),
    *("use_relative_position_bias", "use_shared_relative_position_bias", "layer_scale_init_value"),
    *("layerscale_value", "use_mean_pooling", "use_swiglu_ffn", "num_register_tokens"),
)
"""Fields of transformers' configs that decide how a classifier is built."""
CLASSIFIER = {
    "ViTModel": "ViTForImageClassification",
    "DeiTModel": "DeiTForImageClassification",
    "BeitModel": "BeitForImageClassification",
    "Dinov2Model": "Dinov2ForImageClassification",
    "Dinov2WithRegistersModel": "Dinov2WithRegistersForImageClassification",
}
"""Class with a classifier for each class of pretrained models without one."""


def class_of(config: Config, folder: Path) -> str:
    """Name of the classifier's class; UnsupportedModel for another kind of model or task."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str):
        raise UnsupportedModel(
            f"{folder / CONFIG} names no class of transformers (architectures)", f"supported are {_supported()}"
        )
    if (kind := CLASSIFIER.get(name, name)) not in BACKBONES:
        raise UnsupportedModel(f"{folder} is a {name}, which cannot be pruned", f"supported are {_supported()}")
    return kind


def _supported() -> str:
    return ", ".join(BACKBONES)


def arguments(kind: str, config: Config) -> dict[str, Setting]:
    """The FIELDS of a class's config, completed by transformers' defaults; UnsupportedModel if they are invalid."""
    fields = {name: value for name, value in config.items() if name in FIELDS}
    for name in ("image_size", "patch_size"):
        fields[name] = _side(fields.get(name), name) if name in fields else None
    complete = _config(kind, {name: value for name, value in fields.items() if value is not None})
    return {name: getattr(complete, name) for name in FIELDS if getattr(complete, name, None) is not None}


def class_names(config: Config) -> list[str]:
    """Names of the classes, in order, as in transformers: LABEL_0 and so on if the config has none."""
    labels = config.get("id2label")
    if labels is None:
        return [f"LABEL_{index}" for index in range(config.get("num_labels") or 2)]
    if not isinstance(labels, dict) or {str(index) for index in range(len(labels))} != labels.keys():
        raise UnsupportedModel(f"id2label in {CONFIG} does not name the classes 0, 1, 2, ...", "set it in that file")
    return [str(labels[str(index)]) for index in range(len(labels))]


def classifiers(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a source model that output logits, by name."""
    return {
        name: layer for name, layer in module.named_children() if isinstance(layer, nn.Linear) and "classifier" in name
    }


def build(kind: str, args: Mapping[str, Setting], outputs: int) -> nn.Module:
    """A classifier with initial weights, which depend on torch's seed."""
    import transformers

    config = _config(kind, {**args, "num_labels": outputs})
    try:
        module: nn.Module = getattr(transformers, kind)(config)
    except Exception as error:  # transformers validates few combinations: any class of error may follow
        raise UnsupportedModel(
            f"transformers cannot build a {kind} with this config: {plainly(error)}", f"see {CONFIG}"
        ) from error
    return module.float()


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> set[str]:
    """Load tensors into a classifier of transformers; returns the names of the classifiers that they lack.

    transformers converts the names of older versions. Raises WeightsError, which names the tensors, if others are
    missing or have other shapes, and for NaN or infinity.
    """
    if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise WeightsError(f"{source} contains NaN or infinity, in {listed(broken)}", "use an earlier checkpoint")
    try:
        with _quiet():
            loaded, report = type(module).from_pretrained(  # type: ignore[attr-defined]
                None,
                config=module.config,
                state_dict={name: tensor.float() for name, tensor in tensors.items()},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
    except Exception as error:  # any class of error may follow
        raise WeightsError(f"{source} does not match {type(module).__name__}: {plainly(error)}") from error
    missing, others = set(report["missing_keys"]), [entry[0] for entry in report["mismatched_keys"]]
    absent = {name for name in missing if name.split(".")[0] in classifiers(module)}
    if problems := [*sorted(missing - absent), *others]:
        raise WeightsError(
            f"{source} does not match {type(module).__name__}: {listed(problems)} missing or of another shape",
            "config.json and the weights must be of the same model",
        )
    module.load_state_dict(loaded.state_dict())
    return {name.split(".")[0] for name in absent}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and reports within the context."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _config(kind: str, fields: Mapping[str, Any]) -> Any:
    import transformers

    try:
        return getattr(transformers, kind).config_class(**fields)
    except Exception as error:  # transformers raises many classes of errors
        raise UnsupportedModel(f"the config of this {kind} is invalid: {plainly(error)}", f"see {CONFIG}") from error


def _side(value: object, name: str) -> object:
    """Side of a square, which may be one number or height and width."""
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    if isinstance(value, list):
        raise UnsupportedModel(
            f"{name} = {value} in {CONFIG} is not square", "only square images and patches are supported"
        )
    return value
