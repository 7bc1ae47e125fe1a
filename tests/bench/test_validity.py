from __future__ import annotations

import re

import pytest

from toolkit.bench.validity import invalid_reasons
from toolkit.records import Telemetry

QUIET = Telemetry(cpu_share=0.03, temperature_c=(50.0,), throttled=False)
STEADY = (10.0, 10.2, 9.9, 10.1, 10.0, 10.3, 9.8, 10.0)


def test_a_quiet_machine_is_valid() -> None:
    assert invalid_reasons(STEADY, requested_samples=8, telemetry=QUIET) == ()


def test_unknown_telemetry_is_valid() -> None:
    assert invalid_reasons(STEADY, requested_samples=8, telemetry=Telemetry()) == ()


def test_noise_alone_is_valid() -> None:
    assert invalid_reasons((10.0, 30.0, 10.0, 15.0) * 4, requested_samples=10, telemetry=QUIET) == ()


@pytest.mark.parametrize(
    ("samples", "requested_samples", "telemetry", "reason"),
    [
        (STEADY, 9, QUIET, "8 samples, at least 9"),
        (STEADY[:5], 2, QUIET, "5 samples, at least 6"),
        ((), 2, QUIET, "0 samples"),
        ((10.0,) * 10 + (13.0,) * 10, 20, QUIET, r"changed by \+30%"),
        ((13.0,) * 10 + (10.0,) * 10, 20, QUIET, r"changed by -23%"),
        (STEADY, 8, Telemetry(cpu_share=0.25), "other processes used 25% of the CPU"),
        (STEADY, 8, Telemetry(throttled=True), "heat"),
    ],
)
def test_each_reason_is_reported(
    samples: tuple[float, ...], requested_samples: int, telemetry: Telemetry, reason: str
) -> None:
    (message,) = invalid_reasons(samples, requested_samples, telemetry)
    assert re.search(reason, message)


def test_all_reasons_are_reported_together() -> None:
    assert len(invalid_reasons(STEADY[:3], 8, Telemetry(cpu_share=0.5, throttled=True))) == 3
