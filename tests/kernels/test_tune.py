"""Candidate configurations match the heuristic one, and the fastest is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import cast

import pytest
import torch
import triton

from toolkit.kernels import tuned
from toolkit.kernels.headwise_settings import KernelConfig, Workload, constants, heuristic_config
from toolkit.kernels.tune import Problem, candidates, fastest
from toolkit.kernels.tuned import TunedConfig

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


GPUS = sorted(file.stem for file in tuned.FOLDER.glob("*.json"))
TUNED = [(gpu, config) for gpu in GPUS for config in tuned.load(gpu).values()]


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
@pytest.mark.parametrize(
    ("gpu", "config"),
    TUNED,
    ids=[f"{gpu}-{config.key.kind}-{config.key.num_keys}{'-bias' * config.key.has_bias}" for gpu, config in TUNED],
)
def test_tuned_configurations_match_the_heuristic(gpu: str, config: TunedConfig) -> None:
    key = config.key
    workload = Workload(key.kind, key.num_keys, ((key.dim_qk, key.dim_v),), key.has_bias, key.has_key_bias)
    complete = KernelConfig(config.kernel, {**constants(workload, config.kernel, 90), **config.settings})
    assert Problem(workload, 1, "cpu", torch.float32).disqualification(complete) == "", gpu


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
def test_a_wrong_candidate_is_disqualified() -> None:
    workload = Workload("forward", 50, HEADS)
    heuristic = heuristic_config(workload, 90)
    wrong = KernelConfig("whole_row", {**heuristic.settings, "NUM_KEYS": 40})
    reason = Problem(workload, 1, "cpu", torch.float32).disqualification(wrong)
    assert "from the heuristic's result" in reason


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
@pytest.mark.parametrize(("slowdown", "chosen"), [(1.005, "heuristic"), (1.5, "fastest")])
def test_the_heuristic_is_kept_unless_another_is_clearly_faster(
    slowdown: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload("forward", 50, HEADS)
    heuristic = heuristic_config(workload, 90)
    faster = next(config for config in candidates(workload, 90) if config != heuristic)
    monkeypatch.setattr("toolkit.kernels.tune.candidates", lambda *_: iter((heuristic, faster)))
    monkeypatch.setattr("toolkit.kernels.tune.capability_of", lambda _: 90)
    monkeypatch.setattr(Problem, "copies", lambda _: 2)

    def times(subjects: Sequence[Sequence[Callable[[], object]]]) -> list[float]:
        assert [len(calls) for calls in subjects] == [2, 2]
        subjects[1][0]()
        return [10 * slowdown, 10.0]

    with ThreadPoolExecutor(1) as pool:
        config, disqualified = fastest(
            Problem(workload, 1, "cpu", torch.float32), cast(ProcessPoolExecutor, pool), times
        )
    assert disqualified == {}
    assert (config.us, config.heuristic_us) == ((10 * slowdown,) * 2 if chosen == "heuristic" else (10.0, 15.0))
