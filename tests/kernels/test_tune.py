"""Candidate configurations match the heuristic one; timing them needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton

from toolkit.kernels import tune
from toolkit.kernels.headwise_settings import KernelConfig, Workload, heuristic_config
from toolkit.kernels.tune import Problem, candidates

HEADS = ((16, 8), (8, 16))
WORKLOADS = [
    Workload("forward", 50, HEADS),
    Workload("forward", 50, HEADS, has_bias=True),
    Workload("backward_keys", 50, HEADS),
    Workload("backward_queries", 50, HEADS),
]


def one_per_block_size(configs: list[KernelConfig]) -> Iterator[KernelConfig]:
    """The first configuration of each block size: the interpreter ignores compiler options."""
    seen = set()
    for kernel, settings in configs:
        sizes = (kernel, settings["BLOCK_Q"], settings.get("BLOCK_K"))
        if sizes not in seen:
            seen.add(sizes)
            yield KernelConfig(kernel, settings)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: f"{workload.kind}{'-bias' * workload.has_bias}")
def test_candidates_match_the_heuristic(workload: Workload) -> None:
    problem = Problem(workload, 1, "cpu", torch.float32)
    configs = list(candidates(workload, 90))
    assert configs[0] == heuristic_config(workload, 90)
    assert len(configs) == len({(kernel, tuple(settings.items())) for kernel, settings in configs})
    for config in one_per_block_size(configs):
        assert problem.disqualification(config) == "", config


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
def test_a_wrong_candidate_is_disqualified() -> None:
    workload = Workload("forward", 50, HEADS)
    heuristic = heuristic_config(workload, 90)
    wrong = KernelConfig("whole_row", {**heuristic.settings, "NUM_KEYS": 40})
    reason = Problem(workload, 1, "cpu", torch.float32).disqualification(wrong)
    assert "from the heuristic's result" in reason


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
