from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from toolkit import recipe
from toolkit.dg.broken import find_broken, without_broken
from toolkit.dg.domains import Domains, read_domains
from toolkit.errors import DataError

MakeFolder = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def damaged(make_folder: MakeFolder) -> Domains:
    """Four images of two classes, one of them cut short, one empty, one not an image."""
    root = make_folder({"a": 4, "b": 4})
    whole = (root / "a" / "00.png").read_bytes()
    (root / "a" / "00.png").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "01.png").write_bytes(b"")
    (root / "b" / "02.png").write_text("no image at all")
    return read_domains(recipe.Data(path=str(root), hold_out="none"), 0)


def test_every_file_is_decoded_to_its_end(damaged: Domains) -> None:
    calls: list[tuple[int, int]] = []
    broken = find_broken(damaged, lambda done, total, message="": calls.append((done, total)))
    assert broken == ("images/a/00.png", "images/a/01.png", "images/b/02.png")
    assert calls[-1] == (8, 8)


def test_broken_files_are_named_with_a_way_out(damaged: Domains) -> None:
    with pytest.raises(DataError, match=r"3 images cannot be decoded: images/a/00\.png, ") as raised:
        without_broken(damaged, find_broken(damaged), skip=False)
    assert "--skip-broken" in raised.value.hint


def test_skipped_files_are_left_out_and_counted(damaged: Domains) -> None:
    sound = without_broken(damaged, find_broken(damaged), skip=True)
    assert len(sound.broken) == 3
    assert find_broken(sound) == ()
    assert len(sound.domains[0].images) == 5


def test_sound_data_is_left_as_it_is(three_domains: Domains) -> None:
    assert find_broken(three_domains) == ()
    assert without_broken(three_domains, (), skip=False) is three_domains


def test_only_the_first_few_of_many_are_named(three_domains: Domains) -> None:
    with pytest.raises(DataError, match=r"^9 images cannot be decoded: 0, 1, 2, 3, 4, \.\.\."):
        without_broken(three_domains, tuple("012345678"), skip=False)
