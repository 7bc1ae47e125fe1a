from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from toolkit import hashing, recipe
from toolkit.dg.domains import Domains, read_domains
from toolkit.dg.left_out import LeftOut
from toolkit.errors import DataError, UnknownName

MakeFolder = Callable[[Mapping[str, int]], Path]


def test_no_image_is_both_trained_on_and_evaluated(three_domains: Domains) -> None:
    trained = {image.name for images in three_domains.training_images().values() for image in images}
    evaluated = {image.name for images in three_domains.evaluation_images().values() for image in images}
    assert len(trained) == 2 * 16
    assert len(evaluated) == 2 * 4 + 20
    assert not trained & evaluated


def test_the_held_out_domain_is_used_for_neither_training_nor_selection(three_domains: Domains) -> None:
    assert set(three_domains.training_images()) == {"art", "photo"}
    assert set(three_domains.selection_images()) == {"art", "photo"}
    assert len(three_domains.evaluation_images()["sketch"]) == 20


def test_source_domains_are_evaluated_on_their_selection_images(three_domains: Domains) -> None:
    evaluation = three_domains.evaluation_images()
    assert {name: evaluation[name] for name in ("art", "photo")} == three_domains.selection_images()
    assert {image.label for image in evaluation["art"]} == {0, 1}


def test_hold_out_none_trains_on_every_domain(make_folder: MakeFolder) -> None:
    domains = read_domains(recipe.Data(path=str(make_folder({"a": 5, "b": 5})), hold_out="none"), 0)
    assert domains.held_out is None
    assert list(domains.training_images()) == ["images"]
    assert len(domains.evaluation_images()["images"]) == 2


def test_an_unknown_domain_gets_a_suggestion(make_folder: MakeFolder) -> None:
    root = make_folder({"art/a": 2, "art/b": 2, "photo/a": 2, "photo/b": 2})
    with pytest.raises(UnknownName, match="unknown domain 'foto'") as raised:
        read_domains(recipe.Data(path=str(root), hold_out="foto"), 0)
    assert "did you mean photo" in raised.value.hint


def test_a_held_out_domain_must_be_chosen(make_folder: MakeFolder) -> None:
    root = make_folder({"art/a": 2, "art/b": 2, "photo/a": 2, "photo/b": 2})
    with pytest.raises(DataError, match="no held-out domain is chosen") as raised:
        read_domains(recipe.Data(path=str(root)), 0)
    assert "art, photo" in raised.value.hint
    assert "none" in raised.value.hint


@pytest.mark.parametrize("hold_out", [None, "images"])
def test_a_single_domain_cannot_be_held_out(make_folder: MakeFolder, hold_out: str | None) -> None:
    with pytest.raises(DataError, match="only one domain, images") as raised:
        read_domains(recipe.Data(path=str(make_folder({"a": 5, "b": 5})), hold_out=hold_out), 0)
    assert "--hold-out none" in raised.value.hint


def test_a_class_missing_in_a_domain_is_named_with_the_domains_that_have_it(make_folder: MakeFolder) -> None:
    root = make_folder({"art/a": 2, "art/b": 2, "photo/a": 2})
    with pytest.raises(DataError, match=r"domain photo has no images of b, which art has"):
        read_domains(recipe.Data(path=str(root), hold_out="art"), 0)


def test_a_single_class_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="only one class, a"):
        read_domains(recipe.Data(path=str(make_folder({"a": 5})), hold_out="none"), 0)


def test_a_source_domain_without_validation_images_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"art/a": 1, "art/b": 1, "photo/a": 3, "photo/b": 3})
    with pytest.raises(DataError, match="domain art has no images for validation"):
        read_domains(recipe.Data(path=str(root), hold_out="photo"), 0)
    assert len(read_domains(recipe.Data(path=str(root), hold_out="art"), 0).evaluation_images()["art"]) == 2


def test_a_class_with_a_single_image_is_trained_on(make_folder: MakeFolder) -> None:
    domains = read_domains(recipe.Data(path=str(make_folder({"a": 1, "b": 5})), hold_out="none"), 0)
    assert sorted(image.label for image in domains.training_images()["images"]) == [0, 1, 1, 1, 1]


def test_the_fingerprint_depends_on_everything_that_is_used(make_folder: MakeFolder) -> None:
    root = make_folder({"art/a": 3, "art/b": 3, "photo/a": 3, "photo/b": 3})
    settings = recipe.Data(path=str(root), hold_out="art")
    first = read_domains(settings, 0).fingerprint()
    assert read_domains(settings, 0).fingerprint() == first
    others = [
        read_domains(settings, 1),
        read_domains(settings.model_copy(update={"hold_out": "photo"}), 0),
        read_domains(settings.model_copy(update={"validation_share": 0.5}), 0),
        read_domains(settings, 0).without([LeftOut("art/a/00.png", "empty")]),
        read_domains(settings.model_copy(update={"background": "black"}), 0),
    ]
    assert len({first, *(domains.fingerprint() for domains in others)}) == 6
    (root / "art" / ".DS_Store").write_text("")
    (root / "art" / "a" / "00.png").touch()
    assert read_domains(settings, 0).fingerprint() == first
    with (root / "art" / "a" / "00.png").open("ab") as file:
        file.write(b"longer")
    assert read_domains(settings, 0).fingerprint() != first


def test_other_content_of_the_same_size_changes_the_fingerprint(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    settings = recipe.Data(path=str(root), hold_out="none")
    first = read_domains(settings, 0).fingerprint()
    file = next(file for file in sorted(root.rglob("*")) if file.is_file())
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert read_domains(settings, 0).fingerprint() != first


def test_known_hashes_are_not_computed_again(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    domains = read_domains(recipe.Data(path=str(root), hold_out="none"), 0)
    names = [image.name for image in domains.domains[0].images]
    known = domains.with_hashes({name: hashing.sha256(root.parent / name) for name in names})
    assert known.fingerprint() == domains.fingerprint()
    shutil.rmtree(root)
    assert known.without([]).fingerprint() == known.fingerprint()


def test_a_class_left_in_some_domains_only_is_an_error(three_domains: Domains) -> None:
    lost = [LeftOut(f"art/a/{index:02d}.png", "empty") for index in range(10)]
    with pytest.raises(
        DataError, match=r"domain art has no images of a, which .* \(10 left out, empty: art/a/00\.png,"
    ):
        three_domains.without(lost)
    smaller = three_domains.without(lost[:3])
    assert smaller.left_out == tuple(lost[:3])
    assert len(smaller.domains[0].images) == 17


def test_a_class_without_images_in_any_domain_is_dropped(make_folder: MakeFolder) -> None:
    root = make_folder({f"{domain}/{label}": 3 for domain in ("art", "photo") for label in "abc"})
    domains = read_domains(recipe.Data(path=str(root), hold_out="art"), 0)
    lost = [LeftOut(f"{domain}/b/{index:02d}.png", "empty") for domain in ("art", "photo") for index in range(3)]
    smaller = domains.without(lost)
    assert smaller.classes == ("a", "c")
    assert {(image.name[-8], image.label) for domain in smaller.domains for image in domain.images} == {
        ("a", 0),
        ("c", 1),
    }
    assert smaller.left_out == (*lost, LeftOut("b", "class without usable images"))
    with pytest.raises(
        DataError, match=r"no images are left \(3 left out, class without usable images: a, b, c; 18 left out, empty: "
    ):
        smaller.without([LeftOut(image.name, "empty") for domain in smaller.domains for image in domain.images])


def test_a_held_out_domain_without_images_lists_its_files(make_folder: MakeFolder) -> None:
    root = make_folder({"art/a": 2, "art/b": 2, "photo/a": 2, "photo/b": 2, "sketch/a": 0})
    (root / "sketch" / "a" / "1.heic").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"the held-out domain sketch has no images \(1 left out, domain without .*\.heic"
    ) as raised:
        read_domains(recipe.Data(path=str(root), hold_out="sketch"), 0)
    assert not isinstance(raised.value, UnknownName)


def test_the_home_folder_of_an_unknown_user_is_an_error() -> None:
    with pytest.raises(DataError, match="there is no such user"):
        read_domains(recipe.Data(path="~nobody-of-this-name/photos"), 0)


def test_pacs_is_read_unchanged(shared: Path) -> None:
    domains = read_domains(recipe.Data(path=str(shared / "data" / "pacs160"), hold_out="sketch"), 0)
    assert len(domains.classes) == 7
    assert len(domains.domains) == 4
    for name, images in domains.training_images().items():
        validation = len(domains.selection_images()[name])
        assert 0.19 < validation / (validation + len(images)) < 0.21
