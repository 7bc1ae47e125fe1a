"""Invalid plans are refused; removing a head or a block includes its units."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from toolkit.errors import PlanError
from toolkit.models.groups import Groups
from toolkit.models.model import Model
from toolkit.models.selection import Selection
from toolkit.records import Cut, HeadLayout

Build = Callable[..., Model]
ATTENTION, MLP = "blocks.0.attn", "blocks.0.mlp"


@pytest.fixture(scope="module")
def groups(small: Build) -> Groups:
    """Two blocks of 3 heads of 8 units, 48 MLP units, 24 residual channels."""
    return small().groups


INVALID: dict[str, tuple[tuple[Cut, ...], str]] = {
    "nothing": ((), "removes nothing"),
    "unknown place": ((Cut("blocks.9.mlp", "mlp", (0,)),), r"no axis 'mlp' at 'blocks\.9\.mlp'"),
    "axis of another place": ((Cut(MLP, "qk", (0,)),), "no axis 'qk'"),
    "no unit": ((Cut(MLP, "mlp", ()),), "lists no units"),
    "a unit twice": ((Cut(MLP, "mlp", (3, 3)),), "lists a unit twice"),
    "two cuts of one place": ((Cut(MLP, "mlp", (3,)), Cut(MLP, "mlp", (4,))), "cuts mlp at .* twice"),
    "too large": ((Cut(MLP, "mlp", (48,)),), "has only units 0 to 47 along mlp"),
    "negative": ((Cut(MLP, "mlp", (-1,)),), "has only units 0 to 47"),
    "all units of a layer": ((Cut(MLP, "mlp", tuple(range(48))),), "would keep 0 units along mlp"),
    "all channels": ((Cut("residual", "embed", tuple(range(24))),), "would keep 0 units along embed"),
    "all channels but one": (
        (Cut("residual", "embed", tuple(range(23))),),
        "would keep 1 units .* the minimum is 2",
    ),
    "all heads": ((Cut(ATTENTION, "head", (0, 1, 2)),), "would keep 0 units along head"),
    "all blocks": ((Cut("blocks", "block", (0, 1)),), "would keep 0 units along block"),
    "all queries of a head": ((Cut(ATTENTION, "qk", tuple(range(8, 16))),), "head 1 .* no qk unit"),
    "all values of a head": ((Cut(ATTENTION, "v", tuple(range(8))),), "head 0 .* no v unit"),
}


@pytest.mark.parametrize(("cuts", "message"), INVALID.values(), ids=INVALID)
def test_invalid_plans(groups: Groups, cuts: tuple[Cut, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Selection(groups, cuts)


def test_a_removed_head_includes_its_units(groups: Groups) -> None:
    selection = Selection(
        groups, (Cut(ATTENTION, "head", (1,)), Cut(ATTENTION, "qk", (0, 9)), Cut(ATTENTION, "v", (23,)))
    )
    assert selection.layout(ATTENTION) == HeadLayout(((8, 7), (7, 8)))
    kept = selection.kept(ATTENTION)
    assert kept["head"].tolist() == [2, 0]
    assert kept["qk"].tolist() == [*range(16, 24), *range(1, 8)]
    assert kept["v"].tolist() == [*range(16, 23), *range(8)]


def test_a_removed_head_may_also_lose_all_its_units(groups: Groups) -> None:
    cuts = (Cut(ATTENTION, "head", (1,)), Cut(ATTENTION, "qk", tuple(range(8, 16))))
    assert Selection(groups, cuts).layout(ATTENTION) == HeadLayout(((8, 8), (8, 8)))


def test_a_removed_block_may_also_lose_all_its_units(groups: Groups) -> None:
    cuts = (Cut("blocks", "block", (0,)), Cut(MLP, "mlp", tuple(range(48))), Cut(ATTENTION, "v", tuple(range(8))))
    selection = Selection(groups, cuts)
    assert selection.removed_blocks == (0,)
    assert selection.in_removed_block(MLP)
    assert not selection.in_removed_block("blocks.1.mlp")
