from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from toolkit import recipe
from toolkit.dg import digits as built_in
from toolkit.dg import styles
from toolkit.dg.digits import draw_digits
from toolkit.dg.domains import Domains, read_domains
from toolkit.dg.image import Domain


@pytest.fixture(scope="module")
def digits() -> Domains:
    return read_domains(recipe.Data(path="digits"), seed=0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; the dataset is reduced to three digits."""
    loaded = load_digits()
    few = Bunch(images=loaded.images[:3], target=loaded.target[:3])
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: few)
    monkeypatch.setenv("VIT_TOOLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(domains: Sequence[Domain]) -> str:
    """Hash of the pixels of all images."""
    return hashlib.sha256(
        b"".join(np.asarray(image.source).tobytes() for domain in domains for image in domain.images)
    ).hexdigest()


def test_every_digit_is_drawn_in_every_style(digits: Domains) -> None:
    assert digits.classes == tuple("0123456789")
    assert [domain.name for domain in digits.domains] == ["colour", "ink", "outline", "texture"]
    for domain in digits.domains:
        assert [image.group for image in domain.images] == [f"{index:04d}" for index in range(1797)]
        assert domain.images[0].decode().size == (32, 32)


def test_the_last_style_is_held_out_unless_another_is_named(digits: Domains) -> None:
    assert digits.held_out == "texture"
    assert read_domains(recipe.Data(path="digits", hold_out="ink"), 0).held_out == "ink"


def test_a_digit_trained_on_in_one_style_is_not_evaluated_in_any(digits: Domains) -> None:
    trained = {image.group for images in digits.training_images().values() for image in images}
    for images in digits.evaluation_images().values():
        assert 355 <= len(images) <= 365
        assert not trained & {image.group for image in images}


def test_images_are_identical_on_all_machines_and_versions(digits: Domains) -> None:
    """Accuracies on them are therefore comparable."""
    assert pixels(digits.domains) == "a515b3b3af8c7ee006490510645f6dd2b27c4ec7ab63dc28492bc417b1d80277"


def test_styles_have_the_brightness_and_colour_of_their_names(digits: Domains) -> None:
    brightness, colourfulness = {}, {}
    for domain in digits.domains:
        images = np.stack([np.asarray(image.source) for image in domain.images[:200]]) / 255.0
        brightness[domain.name] = float(images.mean())
        colourfulness[domain.name] = float(images.std(axis=-1).mean())
    assert brightness["colour"] < 0.4 < 0.65 < brightness["ink"] < brightness["outline"]
    assert colourfulness["outline"] < 0.01 < colourfulness["texture"] < colourfulness["colour"]


@pytest.mark.parametrize("style", sorted(styles.STYLES))
def test_the_stroke_is_visible(style: str) -> None:
    """A bar in one half of the image changes that half only, in every style."""
    bar = np.zeros((32, 32))
    bar[4:28, 6:11] = [0.5, 0.9, 1.0, 0.9, 0.5]
    changed = np.abs(styles.draw(style, bar, 5).astype(int) - styles.draw(style, np.zeros((32, 32)), 5)).max(axis=-1)
    assert changed[4:28, 4:13].max() > 40
    assert changed[:, 18:].max() == 0


def test_the_digits_are_drawn_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes, drawn = draw_digits()
    assert [path.name for path in cache.iterdir()] == ["digits.bin"]
    monkeypatch.setattr(styles, "draw_all", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    cached_classes, cached = draw_digits()
    assert cached_classes == classes == ("0", "1", "2")
    assert cached == drawn
    assert pixels(cached) == pixels(drawn)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "another drawing code", "a folder"])
def test_a_damaged_or_outdated_cache_is_replaced(cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    _, drawn = draw_digits()
    file = cache / "digits.bin"
    whole = file.read_bytes()
    if damage == "another drawing code":
        monkeypatch.setattr(built_in.metadata, "version", lambda library: "0.1")
    elif damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        changed = {"truncated": whole[:-1], "one bit": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}
        file.write_bytes(changed[damage])
    _, redrawn = draw_digits()
    assert pixels(redrawn) == pixels(drawn)
    assert [path.name for path in cache.iterdir()] == ["digits.bin"], "no temporary files remain"
    assert file.is_dir() or len(file.read_bytes()) == len(whole)


@pytest.mark.parametrize("folder", ["a file", "no home"])
def test_without_a_cache_the_digits_are_drawn_every_time(
    cache: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    if folder == "a file":
        cache.write_text("not a folder")
    else:
        monkeypatch.delenv("VIT_TOOLKIT_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

        def homeless(path: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", homeless)
    assert pixels(draw_digits()[1]) == pixels(draw_digits()[1])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"VIT_TOOLKIT_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/vit-toolkit"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/someone/.cache/vit-toolkit"),
        ({}, "/home/someone/.cache/vit-toolkit"),
    ],
)
def test_location_of_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("VIT_TOOLKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert built_in.cache_folder() == Path(expected)
