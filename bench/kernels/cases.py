"""Attention layers to measure. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.kernels.heads import Heads

HEADWISE = "headwise"
"""Name of the provider that is the toolkit's own attention."""
UNEVEN_WIDTHS = (64, 48, 40, 32, 24, 24, 16, 16)


@dataclass(frozen=True)
class Case:
    """Attention layer and batch to measure."""

    name: str
    heads: tuple[tuple[int, int], ...]
    """(qk width, v width) of each head."""
    tokens: int
    batch_size: int
    dtype: str = "bfloat16"
    has_bias: bool = False
    training: bool = False
    """Whether to measure forward and backward instead of the forward pass alone."""

    @property
    def bytes_moved(self) -> int:
        """Minimum memory traffic of a forward pass: every input read and every output written once, 2 bytes each."""
        elements = self.batch_size * self.tokens * sum(2 * qk + 2 * v for qk, v in self.heads)
        return 2 * elements + (2 * len(self.heads) * self.tokens**2 if self.has_bias else 0)


def equal_heads(width: int, heads: int) -> Heads:
    """`heads` heads with q, k and v of `width`."""
    return ((width, width),) * heads


def cases() -> tuple[Case, ...]:
    """All cases by unique names, those with a claim first."""
    uneven = tuple((width, width) for width in UNEVEN_WIDTHS)
    mixed = ((64, 64), (64, 24), (40, 40), (40, 24), (24, 40), (16, 16))
    base, small = tuple(equal_heads(64, 12)), tuple(equal_heads(64, 6))
    return (
        Case("dense", base, 197, 128),
        Case("uneven", uneven, 197, 128),
        Case("dense, 577 tokens", base, 577, 128),
        Case("dense, 6 heads", small, 197, 128),
        Case("queries and values differ", mixed, 197, 128),
        Case("dense in float16", base, 197, 128, "float16"),
        Case("dense, batch 32", base, 197, 32),
        Case("dense, batch 1", base, 197, 1),
        Case("uneven, batch 1", uneven, 197, 1),
        Case("dense with bias", base, 197, 128, has_bias=True),
        Case("uneven with bias", uneven, 197, 128, has_bias=True),
        Case("dense, training", base, 197, 128, training=True),
        Case("uneven, training", uneven, 197, 128, training=True),
    )
