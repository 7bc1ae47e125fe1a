"""The autotuner's command line, and times of candidates in turn."""

from __future__ import annotations

import pytest
import torch

from toolkit.bench.clocks import host
from toolkit.bench.kernels import tune


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "136"], "a head is wider than 128"),
        (["--widths", "60"], "not all head widths are multiples of 8"),
        (["--tokens", "0"], "expected integers such as 197,577, got '0'"),
        (["--kinds", "sideways"], "sideways is not one of forward, backward_keys, backward_queries"),
        ([], "this machine has no NVIDIA GPU"),
    ],
    ids=str,
)
def test_bad_arguments(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        tune.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_candidates_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(tune, "clock", lambda name: host.PLUGIN)
    ticks = iter(range(0, 10**6, 1500))
    monkeypatch.setattr(host, "now", lambda: next(ticks))
    assert tune.median_times([[lambda: order.append("a")], [lambda: order.append("b")]]) == [1.5, 1.5]
    assert "".join(order) == ("a" * tune.SAMPLES + "b" * tune.SAMPLES) * tune.ROUNDS
