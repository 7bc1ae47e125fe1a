"""Labelled images in memory: batches from the caller, with or without domains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch

from toolkit.dg.batches import Batch
from toolkit.errors import DataError

Batches: TypeAlias = Iterable[tuple[Any, Any]]
"""(images [batch, 3, S, S] float32, normalised; labels [batch]) as tensors or arrays, as from a DataLoader."""
Data: TypeAlias = Batches | Mapping[str, Batches]
"""Batches, or batches of each domain by name."""
ONE_DOMAIN = "images"
"""Name of the domain if there is only one."""


def domain_names(data: Data) -> tuple[str, ...]:
    """Names of the domains; reads no images."""
    return tuple(data) if isinstance(data, Mapping) else (ONE_DOMAIN,)


def batches_by_domain(data: Data, image_size: int | None) -> dict[str, list[Batch]]:
    """Batches of float32 images and int64 labels by domain. image_size: S in pixels; None: any.

    Raises DataError for other shapes, or if a domain has no images.
    """
    named = data if isinstance(data, Mapping) else {ONE_DOMAIN: data}
    domains = {
        name: [Batch(torch.as_tensor(images), torch.as_tensor(labels).long()) for images, labels in batches]
        for name, batches in named.items()
    }
    for name, batches in domains.items():
        if not batches:
            raise DataError(f"there are no images in {name!r}", "give batches of (images, labels)")
        for batch in batches:
            _check_shape(batch, image_size)
    return domains


def _check_shape(batch: Batch, image_size: int | None) -> None:
    images, labels = batch
    size = image_size or images.shape[-1]
    if images.shape[1:] != (3, size, size) or images.dtype != torch.float32 or labels.shape != images.shape[:1]:
        raise DataError(
            f"a batch has images {[*images.shape]} {images.dtype} and labels {[*labels.shape]}",
            f"expected are images [batch, 3, {size}, {size}] float32 and labels [batch]",
        )
