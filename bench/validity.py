"""Validity rules for measurements: VALID or INVALID, and why.

Noise alone does not invalidate a measurement: the confidence intervals show it. The limits are wide enough for a quiet
virtual machine with two cores.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.bench.statistics import MIN_MEDIAN_SAMPLES, drift
from toolkit.characters import counted
from toolkit.records import Telemetry

MAX_OTHER_CPU = 0.10
"""CPU time that other processes may use, as a fraction of all cores."""
MAX_DRIFT = 0.20
"""Relative change of the median between the first and the second half of the samples, in either direction."""


def invalid_reasons(latency_ms: Sequence[float], requested_samples: int, telemetry: Telemetry) -> tuple[str, ...]:
    """Why these samples are INVALID, worded for users; empty if they are VALID."""
    reasons = []
    required = max(requested_samples, MIN_MEDIAN_SAMPLES)
    if len(latency_ms) < required:
        reasons.append(f"{counted(len(latency_ms), 'sample')}, at least {required} are needed")
    elif abs(change := drift(latency_ms)) > MAX_DRIFT:
        reasons.append(f"latency changed by {change:+.0%} from the first half to the second")
    if telemetry.cpu_share is not None and telemetry.cpu_share > MAX_OTHER_CPU:
        reasons.append(f"other processes used {telemetry.cpu_share:.0%} of the CPU")
    if telemetry.throttled:
        reasons.append("the CPU was throttled due to heat")
    if telemetry.gpu_throttled:
        reasons.append("the GPU was throttled due to heat")
    return tuple(reasons)
