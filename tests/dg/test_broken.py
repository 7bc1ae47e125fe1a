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
NO_ERRORS = ImageCheck({}, {})


@pytest.fixture
def damaged(make_folder: MakeFolder) -> Domains:
    """Four images in each of two classes; one is truncated, one empty, one not an image, and one transparent."""
    root = make_folder({"a": 4, "b": 4})
    whole = (root / "a" / "00.png").read_bytes()
    (root / "a" / "00.png").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "01.png").write_bytes(b"")
    (root / "b" / "02.png").write_text("no image at all")
    Image.new("RGBA", (4, 4), (0, 0, 0, 99)).save(root / "b" / "03.png")
    return read_domains(recipe.Data(path=str(root), hold_out="none"), 0)


def test_every_file_is_decoded_completely(damaged: Domains) -> None:
    calls: list[tuple[int, int]] = []
    check = find_broken(damaged, lambda done, total, message="": calls.append((done, total)))
    assert check == ImageCheck(
        {"images/a/00.png": "truncated", "images/a/01.png": "empty", "images/b/02.png": "not an image but text"},
        {"transparent, composited on white": 1},
    )
    assert calls[-1] == (8, 8)


def test_a_check_with_transient_errors_is_not_reusable() -> None:
    assert ImageCheck({"a": "truncated", "b": "too large (9 pixels, limit 8)"}, {}).reusable
    assert not ImageCheck({"a": "truncated", "b": "failed to open (permission denied)"}, {}).reusable
    assert not ImageCheck({"a": "not enough memory to decode"}, {}).reusable


def test_broken_files_are_reported_with_reasons_and_a_hint(damaged: Domains) -> None:
    with pytest.raises(DataError, match=r"used:\n1 empty: images/a/01\.png\n1 not an image") as raised:
        without_broken(damaged, find_broken(damaged), skip=False)
    assert "--skip-broken" in raised.value.hint


def test_skipped_files_are_left_out_and_counted(damaged: Domains) -> None:
    remaining = without_broken(damaged, find_broken(damaged), skip=True)
    assert [entry.name for entry in remaining.left_out] == ["images/a/00.png", "images/a/01.png", "images/b/02.png"]
    assert find_broken(remaining).unreadable == {}
    assert remaining.remarks == {"transparent, composited on white": 1}
    assert len(remaining.domains[0].images) == 5


def test_a_dataset_without_broken_files_is_not_changed(three_domains: Domains) -> None:
    assert find_broken(three_domains) == NO_ERRORS
    assert without_broken(three_domains, NO_ERRORS, skip=False) == three_domains


def test_an_empty_class_is_an_error_that_can_be_skipped(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3, "emu": 0})
    domains = read_domains(recipe.Data(path=str(root), hold_out="none"), 0)
    with pytest.raises(DataError, match="1 class without images: images/emu/"):
        without_broken(domains, NO_ERRORS, skip=False)
    assert without_broken(domains, NO_ERRORS, skip=True).classes == ("a", "b")


def test_only_the_first_of_many_files_are_listed(three_domains: Domains, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "toolkit")
    many = ImageCheck(dict.fromkeys("012345678", "empty"), {})
    with pytest.raises(DataError, match=r"9 empty: 0, 1, 2, 3, 4 and 4 more"):
        without_broken(three_domains, many, skip=False)
    assert caplog.messages == [f"{name}: empty" for name in "012345678"]
