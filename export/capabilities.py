"""Capabilities of a target, and the names of every file's input and output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

INPUT, OUTPUT = "images", "logits"
"""Names of a graph's input and output."""


class HeadWidths(NamedTuple):
    """Head widths that an attention kernel supports."""

    multiple: int
    minimum: int
    equal: bool = True
    """The qk and v widths of a head must be equal."""


@dataclass(frozen=True)
class Capabilities:
    """Capabilities of a target."""

    precisions: tuple[str, ...]
    opsets: tuple[int, int]
    """Lowest and highest supported ONNX opset."""
    opset: int
    """The requested opset; by default the best one for the target."""
    attention: tuple[str, ...]
    """Supported forms of attention, fastest first."""
    applied_at_load: tuple[str, ...] = ()
    """Precisions that the runtime applies when it loads the file; the graph stays float32."""
    symmetric: bool = False
    """int8 activations must be symmetric (zero point 0)."""
    int8_base: str = "fp32"
    """Precision of the layers that are not quantised in an int8 export."""
    any_image_size: bool = False
    """Supports dynamic image height and width."""
    fixed_batch_needs_all_queries: bool = False
    """Its compiler crashes on attention with fewer queries than keys, unless the batch size is dynamic."""
    fused_heads: HeadWidths | None = None
    """Head widths of its fused attention in fp16 and bf16; None: any."""
    custom_heads: HeadWidths | None = None
    """Head widths of its kernel for the custom node."""
    tokens_multiple: int = 1
    """Its matrix products are fastest if the number of tokens is a multiple of this."""
    linear_patches: bool = False
    """A linear patch embedding is faster than a convolution."""
    unsupported: dict[str, str] = field(default_factory=dict)
    """Precisions and forms of attention that it does not support, with the reason."""
