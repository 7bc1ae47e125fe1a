"""Attention of one layer: the headwise kernel compared with each SDPA backend of PyTorch.

All subjects map the packed QKV projection to the input of the output projection; copies that a backend needs in between
count towards its time. Calls rotate over enough inputs that reads miss the L2 cache.
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
"""SDPA backend by its name in `names.BACKENDS`."""
UNEVEN_WIDTHS = (64, 48, 40, 32, 24, 24, 16, 16)
INPUTS_PER_L2 = 3
"""Rotate over inputs totalling 3x the L2 size, so that reads miss the cache."""


@dataclass(frozen=True)
class Case:
    """Attention layer and batch to measure."""

    name: str
    heads: tuple[tuple[int, int], ...]
    tokens: int
    batch: int
    dtype: str = "bfloat16"
    has_bias: bool = False
    training: bool = False
    """Whether to measure forward and backward instead of the forward pass alone."""

    @property
    def width(self) -> int:
        """Width of the packed projection: q, k and v of all heads."""
        return sum(2 * qk + v for qk, v in self.heads)

    @property
    def bytes_moved(self) -> int:
        """Minimum memory traffic of a forward pass: every input read and every output written once, 2 bytes each."""
        elements = self.batch * self.tokens * (self.width + sum(v for _, v in self.heads))
        return 2 * elements + (2 * len(self.heads) * self.tokens**2 if self.has_bias else 0)


def equal_heads(width: int, heads: int) -> Heads:
    """`heads` heads with q, k and v of `width`."""
    return ((width, width),) * heads


def cases() -> tuple[Case, ...]:
    """All cases, those with a requirement first."""
    uneven = tuple((width, width) for width in UNEVEN_WIDTHS)
    mixed = ((64, 64), (64, 24), (40, 40), (40, 24), (24, 40), (16, 16))
    base, small = tuple(equal_heads(64, 12)), tuple(equal_heads(64, 6))
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


def measure(case: Case, clock: Clock, device: str = "cuda") -> dict[str, Any]:
    """The case, the times of every subject, and the backend that `headwise_attention` selected."""
    dtype = getattr(torch, case.dtype)
    bias = torch.randn(len(case.heads), case.tokens, case.tokens, device=device).to(dtype) if case.has_bias else None
    data = {name: list(_inputs(case, heads, dtype, device)) for name, (_, heads) in subjects(case).items()}
    calls = {
        name: [partial(_forward_backward if case.training else _forward, attend, packed, bias) for packed in data[name]]
        for name, (attend, _) in subjects(case).items()
    }
    times = clock(calls)
    backend, reason, _ = select_backend(data[OURS][0], case.heads)
    return {
        "case": asdict(case), "us": times.us, "errors": times.errors, "bytes_moved": case.bytes_moved,
        "headwise_backend": backend, "reason": reason,
    }  # fmt: skip


Attend = Callable[[Tensor, Tensor | None], Tensor]


def subjects(case: Case) -> Mapping[str, tuple[Attend, Heads]]:
    """Attention function of each subject, and the heads of its input.

    PyTorch's backends need heads of equal width: theirs are padded to the widest head, by zeros in the weights of the
    projection, so that padding costs no copies.
    """
    widest = max(map(max, case.heads))
    padded = equal_heads(widest, len(case.heads))
    functions: dict[str, tuple[Attend, Heads]] = {
        OURS: (lambda packed, bias: headwise_attention(packed, case.heads, SCALE, bias), case.heads)
    }
    if padded != case.heads:
        functions[BUCKETS] = (lambda packed, bias: bucketed(packed, case.heads, SCALE, bias), case.heads)
    for name, backend in FORCED.items():
        functions[name] = (partial(_sdpa, backend, len(case.heads), widest), padded)
    return functions


def _sdpa(backend: SDPBackend, heads: int, width: int, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Attention as in timm: [batch, tokens, 3 * heads * width] -> [batch, tokens, heads * width]."""
    q, k, v = packed.unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4).unbind(0)
    with sdpa_kernel([backend]):
        output = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias[None], scale=SCALE)
    return output.transpose(1, 2).flatten(2).contiguous()


def _forward(attend: Attend, packed: Tensor, bias: Tensor | None) -> Tensor:
    with torch.inference_mode():
        return attend(packed, bias)


def _forward_backward(attend: Attend, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Gradient of the packed projection; uses the output itself as the upstream gradient."""
    leaf = packed.detach().requires_grad_()
    out = attend(leaf, bias)
    return torch.autograd.grad(out, leaf, out.detach())[0]


def _inputs(case: Case, heads: Heads, dtype: torch.dtype, device: str) -> Iterator[Tensor]:
    """Packed projections [batch, tokens, width] to rotate over."""
    shape = case.batch, case.tokens, sum(2 * qk + v for qk, v in heads)
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 0
    input_bytes = 2 * shape[0] * shape[1] * shape[2]
    count = max(1, -(-INPUTS_PER_L2 * l2_bytes // input_bytes)) if case.batch > 1 else 1  # one image stays in the L2
    for _ in range(count):
        yield torch.randn(shape, device=device, dtype=torch.float32).to(dtype)


def fastest_sdpa(result: Mapping[str, Any]) -> tuple[str, list[float]]:
    """The fastest SDPA backend of a result, and its times."""
    times = {name: us for name, us in result["us"].items() if name in BACKENDS}
    fastest = min(times, key=lambda name: median(times[name]))
    return fastest, times[fastest]
