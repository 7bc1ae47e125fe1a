"""Candidates compute what the rule's settings compute; the measuring itself needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton

from toolkit.kernels import tune
from toolkit.kernels.headwise_settings import Plan, Work, by_rule
from toolkit.kernels.tune import Problem, candidates

HEADS = ((16, 8), (8, 16))
WORKS = [
    Work("forward", 50, HEADS),
    Work("forward", 50, HEADS, has_bias=True),
    Work("backward_keys", 50, HEADS),
    Work("backward_queries", 50, HEADS),
]


def some(every: list[Plan]) -> Iterator[Plan]:
    """The rule's, and one of each size of tiles: what else there is to choose the interpreter does not know."""
    seen = set()
    for kernel, settings in every:
        sizes = (kernel, settings["TILE"], settings.get("KEYS"))
        if sizes not in seen:
            seen.add(sizes)
            yield Plan(kernel, settings)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
@pytest.mark.parametrize("work", WORKS, ids=lambda work: f"{work.kind}{'-bias' * work.has_bias}")
def test_candidates_give_the_rules_numbers(work: Work) -> None:
    problem = Problem(work, 1, "cpu", torch.float32)
    every = list(candidates(work, 90))
    assert every[0] == by_rule(work, 90)
    assert len(every) == len({(kernel, tuple(settings.items())) for kernel, settings in every})
    for plan in some(every):
        assert problem.fault(plan) == "", plan


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
def test_a_wrong_candidate_is_found() -> None:
    work = Work("forward", 50, HEADS)
    rule = by_rule(work, 90)
    wrong = Plan("whole_row", {**rule.settings, "TOKENS": 40})
    assert "away from the rule's result" in Problem(work, 1, "cpu", torch.float32).fault(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "136"], "a head is wider than 128"),
        (["--widths", "60"], "not all widths are multiples of 8"),
        (["--tokens", "0"], "0 is not like 197,577"),
        (["--kinds", "sideways"], "sideways is not one of forward, backward_keys, backward_queries"),
        ([], "there is no NVIDIA GPU here"),
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
