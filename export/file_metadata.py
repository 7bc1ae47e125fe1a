"""Metadata inside exported files, if the format supports it: preprocessing and class names."""

from __future__ import annotations

import json

import toolkit
from toolkit.records import ModelInfo


def file_metadata(info: ModelInfo) -> dict[str, str]:
    """Names and values; lists are JSON."""
    preprocessing = info.preprocessing
    return {
        "classes": json.dumps(info.classes),
        "image_size": str(info.image_size),
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "crop": str(preprocessing.crop),
        "crop_mode": preprocessing.crop_mode,
        "model_sha256": info.weights_sha256,
        "toolkit_version": toolkit.__version__,
    }
