"""One layer's attention: our kernel beside every backend of PyTorch's, each named and forced.

All start from the packed projection and end with what the output projection reads; copies that a backend needs in
between are part of its time. Inputs are as many as do not fit into the cache together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.bench.gpu.clock import Clock
from toolkit.bench.gpu.names import BACKENDS, BUCKETS, OURS
from toolkit.kernels.dispatch import select_backend
from toolkit.kernels.eager import bucketed
from toolkit.kernels.heads import Heads
from toolkit.kernels.headwise_attention import headwise_attention

SCALE = 0.125
FORCED = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""By their names in `names`."""
UNEVEN = (64, 48, 40, 32, 24, 24, 16, 16)
CACHES = 3
"""Inputs of so many times the size of the GPU's cache are gone through in turn."""


@dataclass(frozen=True)
class Case:
    """A layer and a batch."""

    name: str
    heads: tuple[tuple[int, int], ...]
    tokens: int
    batch: int
    dtype: str = "bfloat16"
    has_bias: bool = False
    training: bool = False
    """The forward pass and the gradient of the packed projection."""

    @property
    def width(self) -> int:
        """Of the packed projection."""
        return sum(2 * qk + v for qk, v in self.heads)

    @property
    def bytes_moved(self) -> int:
        """Of a forward pass that reads every input and writes every output once."""
        units = self.batch * self.tokens * (self.width + sum(v for _, v in self.heads))
        return 2 * units + (2 * len(self.heads) * self.tokens**2 if self.has_bias else 0)


def even(width: int, heads: int) -> Heads:
    return ((width, width),) * heads


def cases() -> tuple[Case, ...]:
    """What is asked for first."""
    uneven = tuple((width, width) for width in UNEVEN)
    mixed = ((64, 64), (64, 24), (40, 40), (40, 24), (24, 40), (16, 16))
    base, small = tuple(even(64, 12)), tuple(even(64, 6))
    return (
        Case("dense", base, 197, 128),
        Case("uneven", uneven, 197, 128),
        Case("dense 577", base, 577, 128),
        Case("dense", small, 197, 128),
        Case("queries and values differ", mixed, 197, 128),
        Case("dense", base, 197, 128, "float16"),
        Case("dense", base, 197, 32),
        Case("dense", base, 197, 1),
        Case("uneven", uneven, 197, 1),
        Case("with bias", base, 197, 128, has_bias=True),
        Case("uneven with bias", uneven, 197, 128, has_bias=True),
        Case("training", base, 197, 128, training=True),
        Case("uneven training", uneven, 197, 128, training=True),
    )


def measured(case: Case, clock: Clock, device: str = "cuda") -> dict[str, Any]:
    """The case, every subject's times, and what was chosen for ours."""
    dtype = getattr(torch, case.dtype)
    bias = torch.randn(len(case.heads), case.tokens, case.tokens, device=device).to(dtype) if case.has_bias else None
    data = {name: list(_inputs(case, heads, dtype, device)) for name, (_, heads) in subjects(case).items()}
    calls = {
        name: [partial(_trained if case.training else _called, run, packed, bias) for packed in data[name]]
        for name, (run, _) in subjects(case).items()
    }
    times = clock(calls)
    backend, reason, _ = select_backend(data[OURS][0], case.heads)
    return {
        "case": asdict(case), "us": times.us, "errors": times.errors, "bytes_moved": case.bytes_moved,
        "headwise_backend": backend, "reason": reason,
    }  # fmt: skip


Run = Callable[[Tensor, Tensor | None], Tensor]


def subjects(case: Case) -> Mapping[str, tuple[Run, Heads]]:
    """Name -> what computes it, and the heads that its input is for: PyTorch's backends take heads of one width, so
    all are padded to the widest there, by zeros in the projection's weights, which costs them no copies."""
    widest = max(map(max, case.heads))
    padded = even(widest, len(case.heads))
    found: dict[str, tuple[Run, Heads]] = {
        OURS: (lambda packed, bias: headwise_attention(packed, case.heads, SCALE, bias), case.heads)
    }
    if padded != case.heads:
        found[BUCKETS] = (lambda packed, bias: bucketed(packed, case.heads, SCALE, bias), case.heads)
    for name, backend in FORCED.items():
        found[name] = (partial(_one_width, backend, len(case.heads), widest), padded)
    return found


def _one_width(backend: SDPBackend, heads: int, width: int, packed: Tensor, bias: Tensor | None) -> Tensor:
    """As timm does it: [batch, tokens, 3 * heads * width] -> [batch, tokens, heads * width]."""
    q, k, v = packed.unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4).unbind(0)
    with sdpa_kernel([backend]):
        mixed = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias[None], scale=SCALE)
    return mixed.transpose(1, 2).flatten(2).contiguous()


def _called(run: Run, packed: Tensor, bias: Tensor | None) -> Tensor:
    with torch.inference_mode():
        return run(packed, bias)


def _trained(run: Run, packed: Tensor, bias: Tensor | None) -> Tensor:
    """The gradient is the output's own value: as good as any."""
    leaf = packed.detach().requires_grad_()
    out = run(leaf, bias)
    return torch.autograd.grad(out, leaf, out.detach())[0]


def _inputs(case: Case, heads: Heads, dtype: torch.dtype, device: str) -> Iterator[Tensor]:
    shape = case.batch, case.tokens, sum(2 * qk + v for qk, v in heads)
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 0
    one = 2 * shape[0] * shape[1] * shape[2]
    for _ in range(max(1, -(-CACHES * cache // one)) if case.batch > 1 else 1):  # one image's stay in it anyhow
        yield torch.randn(shape, device=device, dtype=torch.float32).to(dtype)


def best_of_pytorch(result: Mapping[str, Any]) -> tuple[str, list[float]]:
    """The fastest backend of a case and its times."""
    theirs = {name: us for name, us in result["us"].items() if name in BACKENDS}
    name = min(theirs, key=lambda each: median(theirs[each]))
    return name, theirs[name]
