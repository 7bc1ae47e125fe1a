"""What a file says of itself, in the formats that have a place for it: how to prepare an image, and what it answers."""

from __future__ import annotations

import json

import toolkit
from toolkit.records import ModelInfo


def facts(info: ModelInfo) -> dict[str, str]:
    """Names and values; lists are JSON."""
    prepared = info.preprocessing
    return {
        "classes": json.dumps(info.classes),
        "image_size": str(info.image_size),
        "mean": json.dumps(prepared.mean),
        "std": json.dumps(prepared.std),
        "interpolation": prepared.interpolation,
        "crop": str(prepared.crop),
        "crop_mode": prepared.crop_mode,
        "model_sha256": info.weights_sha256,
        "toolkit_version": toolkit.__version__,
    }
