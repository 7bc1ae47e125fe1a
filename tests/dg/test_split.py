from __future__ import annotations

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from toolkit.dg.image import Image
from toolkit.dg.split import validation_groups


def images_of(groups: list[tuple[str, int]]) -> list[Image]:
    return [Image(name=group, group=group, label=label, source=Path(group)) for group, label in groups]


GROUPS = st.lists(st.tuples(st.text("abcdef/", min_size=1, max_size=5), st.integers(0, 2)), max_size=40).map(
    lambda pairs: [(f"{label}/{group}", label) for group, label in pairs]
)


@given(GROUPS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_each_class_keeps_its_fraction_but_never_all_groups(
    groups: list[tuple[str, int]], fraction: float, seed: int
) -> None:
    validation = validation_groups(images_of(groups), fraction, seed)
    for label in {label for _, label in groups}:
        in_class = {group for group, other in groups if other == label}
        expected = min(max(1, round(fraction * len(in_class))), len(in_class) - 1)
        assert len(validation & in_class) == expected


@given(GROUPS, st.text("xyz", min_size=1, max_size=3))
def test_a_new_image_of_another_class_does_not_change_the_split(groups: list[tuple[str, int]], name: str) -> None:
    before = validation_groups(images_of(groups), 0.2, 0)
    after = validation_groups(images_of([*groups, (name, 7)]), 0.2, 0)
    assert after - {name} == before


def test_the_rank_is_the_hash_of_seed_and_group() -> None:
    groups = [f"photo/cat/{index}.jpg" for index in range(10)]
    by_hash = sorted(groups, key=lambda group: hashlib.sha256(f"4\0{group}".encode()).hexdigest())
    assert validation_groups(images_of([(group, 0) for group in groups]), 0.3, 4) == set(by_hash[:3])


def test_another_seed_gives_another_split() -> None:
    images = images_of([(f"{index}", 0) for index in range(50)])
    assert validation_groups(images, 0.2, 0) != validation_groups(images, 0.2, 1)
