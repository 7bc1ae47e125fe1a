"""The order of the stages, and what one stage's need means for another."""

from __future__ import annotations

import pytest

from toolkit.pipeline import STAGES, with_dependencies
from toolkit.stages.compare import stages_of


def test_stages_stand_in_the_order_in_which_they_run() -> None:
    assert list(STAGES) == ["train", "prune", "finetune", "export", "parity", "bench", "report"]
    for position, stage in enumerate(STAGES.values()):
        assert set(stage.needs) <= set(list(STAGES)[:position])


@pytest.mark.parametrize(
    ("names", "all_of_them"),
    [
        (["train"], ["train"]),
        (["finetune"], ["train", "prune", "finetune"]),
        (["bench"], ["train", "prune", "finetune", "export", "bench"]),
        (["parity", "train"], ["train", "prune", "finetune", "export", "parity"]),
        (["report"], list(STAGES)),
    ],
)
def test_what_a_stage_needs_comes_with_it(names: list[str], all_of_them: list[str]) -> None:
    assert [stage.name for stage in with_dependencies(names)] == all_of_them


@pytest.mark.parametrize(
    ("latencies", "names"),
    [(True, ["train", "prune", "export", "bench", "compare"]), (False, ["train", "prune", "compare"])],
)
def test_stages_of_a_comparison_stand_for_those_of_their_names(latencies: bool, names: list[str]) -> None:
    own = stages_of((), latencies=latencies, allow_invalid=False)
    stages = with_dependencies(["compare"], {**STAGES, **own})
    assert [stage.name for stage in stages] == names
    assert stages[0] is STAGES["train"]
    assert stages[1:] == [own[name] for name in names[1:]]
    assert STAGES["prune"] is not own["prune"]
