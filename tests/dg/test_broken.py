from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from toolkit import recipe
from toolkit.dg.broken import ImageCheck, find_broken, without_broken
from toolkit.dg.domains import Domains, read_domains
from toolkit.errors import DataError

MakeFolder = Callable[[Mapping[str, int]], Path]
SOUND = ImageCheck({}, {})


@pytest.fixture
def damaged(make_folder: MakeFolder) -> Domains:
    """Four images of two classes, one of them cut short, one empty, one not an image, and one transparent."""
    root = make_folder({"a": 4, "b": 4})
    whole = (root / "a" / "00.png").read_bytes()
    (root / "a" / "00.png").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "01.png").write_bytes(b"")
    (root / "b" / "02.png").write_text("no image at all")
    Image.new("RGBA", (4, 4), (0, 0, 0, 99)).save(root / "b" / "03.png")
    return read_domains(recipe.Data(path=str(root), hold_out="none"), 0)


def test_every_file_is_decoded_to_its_end(damaged: Domains) -> None:
    calls: list[tuple[int, int]] = []
    found = find_broken(damaged, lambda done, total, message="": calls.append((done, total)))
    assert found == ImageCheck(
        {"images/a/00.png": "cut short", "images/a/01.png": "empty", "images/b/02.png": "not an image but text"},
        {"transparent, laid on white": 1},
    )
    assert calls[-1] == (8, 8)


def test_what_may_pass_is_not_kept() -> None:
    assert ImageCheck({"a": "cut short", "b": "too large (9 pixels; at most 8 are read)"}, {}).lasts
    assert not ImageCheck({"a": "cut short", "b": "not to be opened (permission denied)"}, {}).lasts
    assert not ImageCheck({"a": "too large for the memory there is"}, {}).lasts


def test_broken_files_are_named_with_reasons_and_a_way_out(damaged: Domains) -> None:
    with pytest.raises(DataError, match=r"used:\n1 cut short: images/a/00\.png\n1 empty: images/a/01\.png\n") as raised:
        without_broken(damaged, find_broken(damaged), skip=False)
    assert "--skip-broken" in raised.value.hint


def test_skipped_files_are_left_out_and_counted(damaged: Domains) -> None:
    sound = without_broken(damaged, find_broken(damaged), skip=True)
    assert [each.name for each in sound.left_out] == ["images/a/00.png", "images/a/01.png", "images/b/02.png"]
    assert find_broken(sound).unreadable == {}
    assert sound.remarks == {"transparent, laid on white": 1}
    assert len(sound.domains[0].images) == 5


def test_sound_data_is_left_as_it_is(three_domains: Domains) -> None:
    assert find_broken(three_domains) == SOUND
    assert without_broken(three_domains, SOUND, skip=False) == three_domains


def test_an_empty_class_is_a_fault_that_can_be_skipped(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3, "emu": 0})
    domains = read_domains(recipe.Data(path=str(root), hold_out="none"), 0)
    with pytest.raises(DataError, match="1 a class without images: images/emu/"):
        without_broken(domains, SOUND, skip=False)
    assert without_broken(domains, SOUND, skip=True).classes == ("a", "b")


def test_only_the_first_few_of_many_are_named(three_domains: Domains, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "toolkit")
    many = ImageCheck(dict.fromkeys("012345678", "empty"), {})
    with pytest.raises(DataError, match=r"9 empty: 0, 1, 2, 3, 4 and 4 more"):
        without_broken(three_domains, many, skip=False)
    assert caplog.messages == [f"{name}: empty" for name in "012345678"]
