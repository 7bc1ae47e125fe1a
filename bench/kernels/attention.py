"""Attention of one layer: the headwise kernel compared with each SDPA backend of PyTorch.

All providers map the packed QKV projection to the input of the output projection; copies that a backend needs in
between count towards its time. Calls rotate over enough inputs that reads miss the L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.bench.clocks import Clock, Timer
from toolkit.bench.kernels.cases import HEADWISE, Case, equal_heads
from toolkit.bench.measure import StopCondition, interleaved
from toolkit.kernels.dispatch import select_backend
from toolkit.kernels.eager import bucketed
from toolkit.kernels.heads import Heads
from toolkit.kernels.headwise_attention import headwise_attention
from toolkit.machine import nvidia
from toolkit.records import GpuState

SCALE = 0.125
BUCKETS = "buckets"
"""One SDPA call per bucket of equal heads."""
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""SDPA backends of PyTorch, for heads of equal width."""
INPUTS_PER_L2 = 3
"""Rotate over inputs totalling 3x the L2 size, so that reads miss the cache."""
STOP = StopCondition(seconds=0.0, samples=30, warmup_seconds=0.0, warmup_samples=0)
"""No warm-up here: the GPU clocks warm up in their timers."""

Attend = Callable[[Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class KernelReport:
    """Samples of every provider for one case, interleaved."""

    case: Case
    latency_ms: dict[str, tuple[float, ...]]
    """Samples by provider; sample i of every provider is from round i."""
    failures: dict[str, str]
    """Providers that cannot compute the case, and why."""
    backend: str
    """Backend that `headwise_attention` selected, and why."""
    reason: str
    gpu: GpuState | None
    """State of the GPU right after the measurement."""

    @property
    def fastest_backend(self) -> str | None:
        """The SDPA backend with the lowest median; None if no backend supports the case."""
        names = [name for name in self.latency_ms if name in BACKENDS]
        return min(names, key=lambda name: median(self.latency_ms[name]), default=None)

    def bandwidth(self) -> float:
        """Achieved memory bandwidth of the headwise kernel, in bytes per second."""
        return self.case.bytes_moved / (median(self.latency_ms[HEADWISE]) / 1e3)


def measure(case: Case, clock: Clock, device: str = "cuda") -> KernelReport:
    """Measure a case; providers that fail are listed with their error."""
    dtype = getattr(torch, case.dtype)
    bias = torch.randn(len(case.heads), case.tokens, case.tokens, device=device).to(dtype) if case.has_bias else None
    run = _forward_backward if case.training else _forward
    timers: dict[str, Timer] = {}
    failures: dict[str, str] = {}
    for name, (attend, heads) in providers(case).items():
        inputs = _inputs(case, heads, dtype, device)
        try:
            timers[name] = clock.timer([partial(run, attend, packed, bias) for packed in inputs])
        except Exception as error:  # an unsupported backend, a kernel that does not compile
            failures[name] = summary_of(error.__context__ or error)
    samples = interleaved(timers, STOP) if timers else {}
    latency_ms = {name: each.latency_ms for name, each in samples.items()}
    packed = next(_inputs(case, case.heads, dtype, device))
    backend, reason, _ = select_backend(packed, case.heads)
    return KernelReport(case, latency_ms, failures, backend, reason, nvidia.state())


def providers(case: Case) -> Mapping[str, tuple[Attend, Heads]]:
    """Attention function of each provider, and the heads of its input.

    PyTorch's backends need heads of equal width: theirs are padded to the widest head, by zeros in the weights of the
    projection, so that padding costs no copies.
    """
    widest = max(map(max, case.heads))
    padded = equal_heads(widest, len(case.heads))
    functions: dict[str, tuple[Attend, Heads]] = {
        HEADWISE: (lambda packed, bias: headwise_attention(packed, case.heads, SCALE, bias), case.heads)
    }
    if padded != case.heads:
        functions[BUCKETS] = (lambda packed, bias: bucketed(packed, case.heads, SCALE, bias), case.heads)
    for name, backend in BACKENDS.items():
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
    shape = case.batch_size, case.tokens, sum(2 * qk + v for qk, v in heads)
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 0
    input_bytes = 2 * shape[0] * shape[1] * shape[2]
    count = max(1, -(-INPUTS_PER_L2 * l2_bytes // input_bytes)) if case.batch_size > 1 else 1  # one image fits in L2
    for _ in range(count):
        yield torch.randn(shape, device=device, dtype=torch.float32).to(dtype)


def summary_of(error: BaseException) -> str:
    """Class and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def copy_bandwidth(clock: Clock) -> float:
    """Achievable memory bandwidth in bytes per second: reads plus writes of a device-to-device copy."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    destination = torch.empty_like(source)
    timer = clock.timer([lambda: destination.copy_(source)])
    return 2 * source.numel() / (median(timer() for _ in range(STOP.samples)) * 1e-9)


def nominal_bandwidth() -> float:
    """Theoretical memory bandwidth in bytes per second, at two transfers per memory clock."""
    gpu = torch.cuda.get_device_properties(0)
    return float(2 * gpu.memory_clock_rate * 1e3 * gpu.memory_bus_width / 8)
