from __future__ import annotations

import numpy as np
import pytest

from toolkit import recipe
from toolkit.dg.digits import STYLES, draw, draw_digits
from toolkit.dg.domains import Domains, read_domains


@pytest.fixture(scope="module")
def digits() -> Domains:
    return read_domains(recipe.Data(path="digits"), seed=0)


def test_every_digit_is_drawn_in_every_style(digits: Domains) -> None:
    assert digits.classes == tuple("0123456789")
    assert [domain.name for domain in digits.domains] == ["colour", "ink", "outline", "texture"]
    for domain in digits.domains:
        assert [image.group for image in domain.images] == [f"{index:04d}" for index in range(1797)]
        assert domain.images[0].decode().size == (32, 32)


def test_the_last_style_is_held_out_unless_another_is_named(digits: Domains) -> None:
    assert digits.held_out == "texture"
    assert read_domains(recipe.Data(path="digits", hold_out="ink"), 0).held_out == "ink"


def test_a_digit_seen_in_one_style_is_evaluated_in_none(digits: Domains) -> None:
    trained = {image.group for part in digits.training_images().values() for image in part}
    for images in digits.evaluation_images().values():
        assert 355 <= len(images) <= 365
        assert not trained & {image.group for image in images}


def test_drawing_again_gives_the_same_pictures(digits: Domains) -> None:
    _, again = draw_digits()
    for domain, other in zip(digits.domains, again, strict=True):
        for image, same in zip(domain.images[::50], other.images[::50], strict=True):
            np.testing.assert_array_equal(np.asarray(image.source), np.asarray(same.source))


def test_styles_differ_as_they_are_named(digits: Domains) -> None:
    brightness, colourfulness = {}, {}
    for domain in digits.domains:
        pictures = np.stack([np.asarray(image.source) for image in domain.images[:200]]) / 255.0
        brightness[domain.name] = float(pictures.mean())
        colourfulness[domain.name] = float(pictures.std(axis=-1).mean())
    assert brightness["colour"] < 0.4 < 0.65 < brightness["ink"] < brightness["outline"]
    assert colourfulness["outline"] < 0.01 < colourfulness["texture"] < colourfulness["colour"]


@pytest.mark.parametrize("style", sorted(STYLES))
def test_the_stroke_can_be_seen(style: str) -> None:
    """A bar drawn on half of the picture changes that half, whatever the random numbers."""
    bar = np.zeros((32, 32))
    bar[4:28, 6:11] = [0.5, 0.9, 1.0, 0.9, 0.5]
    changed = np.abs(draw(style, bar, 5).astype(int) - draw(style, np.zeros((32, 32)), 5)).max(axis=-1)
    assert changed[4:28, 4:13].max() > 40
    assert changed[:, 18:].max() == 0
