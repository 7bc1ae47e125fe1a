"""Cases on a CPU: every provider is called; nothing is timed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from toolkit import records
from toolkit.bench.clocks import Call, Timer
from toolkit.bench.kernels import attention
from toolkit.bench.kernels.attention import BACKENDS, BUCKETS, KernelReport
from toolkit.bench.kernels.cases import HEADWISE, Case, cases
from toolkit.kernels.eager import reference


class Once:
    """A clock that makes every call once and reports one microsecond."""

    on_device = True

    def timer(self, calls: Sequence[Call]) -> Timer:
        for call in calls:
            call()
        return lambda: 1000.0


@pytest.mark.parametrize(("has_bias", "training"), [(False, False), (True, True)])
@pytest.mark.parametrize("heads", [((16, 16),) * 2, ((16, 16), (8, 8))], ids=["even", "uneven"])
def test_a_case_calls_every_provider(heads: tuple[tuple[int, int], ...], training: bool, has_bias: bool) -> None:
    case = Case("some", heads, 17, 2, "float32", has_bias, training)
    report = attention.measure(case, Once(), "cpu")
    assert report.latency_ms["math"] == report.latency_ms[HEADWISE] == (0.001,) * 30
    assert (BUCKETS in report.latency_ms) == (heads[0] != heads[1])
    assert report.latency_ms.keys() | report.failures.keys() >= BACKENDS.keys()
    assert report.backend == "sdpa"
    assert "the tensors are on cpu" in report.reason
    assert records.loads(KernelReport, records.dumps(report)) == report


def test_a_provider_that_fails_is_listed_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: object) -> None:
        raise RuntimeError("no kernel\nfor this GPU")

    monkeypatch.setattr(attention, "headwise_attention", no_kernel)
    report = attention.measure(Case("some", ((16, 16),), 17, 2, "float32"), Once(), "cpu")
    assert report.failures[HEADWISE] == "RuntimeError: no kernel"
    assert HEADWISE not in report.latency_ms


@pytest.mark.parametrize("has_bias", [False, True])
def test_sdpa_backends_match_the_reference(has_bias: bool) -> None:
    heads = ((16, 16),) * 2
    packed = torch.randn(2, 17, 96)
    bias = torch.randn(2, 17, 17) if has_bias else None
    attend, _ = attention.providers(Case("some", heads, 17, 2))["math"]
    torch.testing.assert_close(attend(packed, bias), reference(packed, heads, attention.SCALE, bias))


def test_cases_have_unique_names() -> None:
    assert len({case.name for case in cases()}) == len(cases())
    assert cases()[0].bytes_moved == 128 * 197 * 12 * 64 * 4 * 2, "queries, keys, values and the output"
