from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from toolkit import recipe
from toolkit.dg.broken import checked_domains, without_broken
from toolkit.dg.domains import Domains, read_domains
from toolkit.dg.image_check import CheckedFile, CheckedImages, check_images, empty_check, unchecked
from toolkit.errors import DataError

MakeFolder = Callable[[Mapping[str, int]], Path]


def checked(domains: Domains) -> CheckedImages:
    empty = empty_check("white")
    return check_images(unchecked(domains, empty), empty)


def test_broken_files_are_reported_with_reasons_and_a_hint(damaged: Domains) -> None:
    with pytest.raises(DataError, match=r"used:\n1 empty: images/a/01\.png\n1 not an image") as raised:
        without_broken(damaged, checked(damaged), skip=False)
    assert "--skip-broken" in raised.value.hint


def test_skipped_files_are_left_out_and_counted(damaged: Domains) -> None:
    remaining = without_broken(damaged, checked(damaged), skip=True)
    assert [entry.name for entry in remaining.left_out] == ["images/a/00.png", "images/a/01.png", "images/b/02.png"]
    assert not any(file.unreadable for file in checked(remaining).by_name(remaining).values())
    assert remaining.remarks == {"transparent, composited on white": 1}
    assert len(remaining.domains[0].images) == 5


def test_a_dataset_without_broken_files_only_gets_hashes(three_domains: Domains) -> None:
    result = without_broken(three_domains, checked(three_domains), skip=False)
    assert result.with_hashes({}) == three_domains
    assert result.fingerprint() == three_domains.fingerprint()
    assert all(image.sha256 for domain in result.domains for image in domain.images)


@pytest.mark.usefixtures("settled")
def test_a_checked_dataset_is_decoded_once(make_folder: MakeFolder) -> None:
    data = recipe.Data(path=str(make_folder({"a": 3, "b": 3})), hold_out="none")
    domains, check = checked_domains(data, 0)
    assert all(image.sha256 for image in domains.domains[0].images)
    again, same = checked_domains(data, 0, check)
    assert same is check
    assert again == domains


def test_an_empty_class_is_an_error_that_can_be_skipped(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3, "emu": 0})
    domains = read_domains(recipe.Data(path=str(root), hold_out="none"), 0)
    with pytest.raises(DataError, match="1 class without images: images/emu/"):
        without_broken(domains, checked(domains), skip=False)
    assert without_broken(domains, checked(domains), skip=True).classes == ("a", "b")


def test_only_the_first_of_many_files_are_listed(three_domains: Domains, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "toolkit")
    check = checked(three_domains)
    lost = [*check.files][:9]
    check.files.update((path, CheckedFile(0, 0, "", "empty", ())) for path in lost)
    names = [name for name, file in check.by_name(three_domains).items() if file.unreadable]
    with pytest.raises(DataError, match=rf"9 empty: {', '.join(names[:5])} and 4 more"):
        without_broken(three_domains, check, skip=False)
    assert caplog.messages == [f"{name}: empty" for name in names]
