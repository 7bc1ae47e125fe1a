"""When a measurement says nothing: the rules behind VALID and INVALID, as one pure function.

Noise alone is no reason: it shows in the intervals. The bounds let a quiet virtual machine of two cores pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.bench.statistics import MEDIAN_NEEDS, drift
from toolkit.characters import counted
from toolkit.records import Telemetry

LARGEST_CPU_SHARE = 0.10
"""Share of all cores that other processes may take."""
LARGEST_DRIFT = 0.20
"""Change of the median from the first half of the samples to the second, up or down."""


def reasons(latency_ms: Sequence[float], wanted: int, telemetry: Telemetry) -> tuple[str, ...]:
    """Why these samples are INVALID, in a user's words; empty: VALID. `wanted`: how many samples were asked for."""
    found = []
    needed = max(wanted, MEDIAN_NEEDS)
    if len(latency_ms) < needed:
        found.append(f"{counted(len(latency_ms), 'sample')}, at least {needed} are needed")
    elif abs(change := drift(latency_ms)) > LARGEST_DRIFT:
        found.append(f"latency changed by {change:+.0%} from the first half to the second")
    if telemetry.cpu_share is not None and telemetry.cpu_share > LARGEST_CPU_SHARE:
        found.append(f"other processes took {telemetry.cpu_share:.0%} of the processor")
    if telemetry.throttled:
        found.append("the processor was slowed down for heat")
    return tuple(found)
