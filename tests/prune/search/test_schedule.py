"""Schedules of merges: within what merging allows, whatever is drawn."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from toolkit.prune.search.schedule import Schedule, Tokens, mutated, strongest, templates, tokens_after
from toolkit.records import Merge

TOKENS = Tokens(tuple(range(12)), patches=196, prefix=1)


def check(merges: tuple[Merge, ...], tokens: Tokens) -> None:
    counts = [tokens.total, *(merge.tokens for merge in merges)]
    assert all(after < before for before, after in itertools.pairwise(counts))
    assert all(after - tokens.prefix >= (before - tokens.prefix) // 2 for before, after in itertools.pairwise(counts))
    assert all(merge.tokens % tokens.multiple == 0 and merge.tokens >= tokens.fewest for merge in merges)
    assert [merge.block for merge in merges] == sorted({merge.block for merge in merges})


@given(st.integers(0, 2**31), st.sampled_from([1, 4, 8]), st.integers(1, 4))
def test_random_changes(seed: int, multiple: int, most: int) -> None:
    tokens = Tokens(TOKENS.blocks, TOKENS.patches, 2, multiple, most_merges=most)
    generator = np.random.default_rng(seed)
    schedule = next(templates(tokens))
    for _ in range(20):
        schedule = mutated(schedule, tokens, 1.0, generator)
        assert 1 <= len(schedule.kept) <= most
        assert {position for position, _ in schedule.kept} <= {*tokens.sites}
        check(schedule.merges(tokens), tokens)


def test_numbers_of_tokens() -> None:
    schedule = Schedule(((3, 0.75), (5, 0.5)))
    merges = schedule.merges(TOKENS)
    assert merges == (Merge(3, 148), Merge(5, 74))
    assert tokens_after(merges, TOKENS) == [197] * 3 + [148] * 2 + [74] * 7


def test_the_fewest_tokens_are_a_fraction_of_the_dense_models() -> None:
    few = Tokens(TOKENS.blocks, 64, 1, dense=197, least=0.4, multiple=8)
    assert few.fewest == 80, "of 197 tokens, not of 65: 78.8, rounded up to a multiple"
    limited = replace(TOKENS, least=0.4)
    assert Schedule(((3, 0.5), (5, 0.5))).merges(limited) == (Merge(3, 99), Merge(5, 79))
    for schedule in strongest(limited):
        check(schedule.merges(limited), limited)


def test_templates_stay_inside_the_model() -> None:
    for schedule in (*templates(TOKENS), *strongest(TOKENS)):
        check(schedule.merges(TOKENS), TOKENS)
    assert [*templates(Tokens(TOKENS.blocks, 196, 1, most_merges=0))] == []
    assert strongest(Tokens(TOKENS.blocks, 196, 1, most_merges=0)) == [Schedule()]
