from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from toolkit import recipe
from toolkit.dg.batches import (
    TrainingBatches,
    calibration_batches,
    calibration_images,
    evaluation_batches,
    images_per_domain,
)
from toolkit.dg.domains import Domains
from toolkit.dg.draws import Draw
from toolkit.dg.image import Image
from toolkit.errors import DataError, ToolkitError
from toolkit.records import ModelInfo


class Deadly(Image):
    """An image that kills the process that decodes it, as the out-of-memory killer does."""

    def decode(self) -> Pillow.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


SETTINGS = recipe.Train(batch_size=8)


def training_batches(domains: Domains, info: ModelInfo, seed: int = 0, workers: int = 0) -> TrainingBatches:
    return TrainingBatches(domains.training_images(), info, SETTINGS, seed, workers)


def test_a_step_has_one_batch_of_every_source_domain(three_domains: Domains, tiny_info: ModelInfo) -> None:
    steps = list(training_batches(three_domains, tiny_info).steps(0, 3))
    assert len(steps) == 3
    for batches in steps:
        assert [tuple(batch.images.shape) for batch in batches] == [(4, 3, 8, 8), (4, 3, 8, 8)]
        assert [batch.labels.dtype for batch in batches] == [torch.int64, torch.int64]


def test_all_images_of_a_domain_are_drawn_before_any_repeats(three_domains: Domains, tiny_info: ModelInfo) -> None:
    draws = training_batches(three_domains, tiny_info).draws

    def drawn(first: int) -> list[Draw]:
        return [draw for step in draws.steps(first // 4, first // 4 + 4) for draw in step if draw.domain == 0]

    for start in (0, 16, 32):
        assert sorted(draw.image for draw in drawn(start)) == list(range(16))
    assert [draw.image for draw in drawn(0)] != [draw.image for draw in drawn(16)]


def test_batches_depend_on_seed_and_step_only(three_domains: Domains, tiny_info: ModelInfo) -> None:
    whole = list(training_batches(three_domains, tiny_info).steps(0, 6))
    torch.rand(3)
    resumed = list(training_batches(three_domains, tiny_info, workers=1).steps(4, 6))
    for expected, actual in zip(whole[4:], resumed, strict=True):
        for one, other in zip(expected, actual, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
    other_seed = next(training_batches(three_domains, tiny_info, seed=1).steps(0, 1))
    assert not torch.equal(other_seed[0].images, whole[0][0].images)


def test_an_image_is_augmented_differently_each_time(three_domains: Domains, tiny_info: ModelInfo) -> None:
    only = {"art": three_domains.training_images()["art"][:1]}
    first, second = TrainingBatches(only, tiny_info, recipe.Train(batch_size=1), 0, 0).steps(0, 2)
    assert not torch.equal(first[0].images, second[0].images)


def test_the_caller_s_random_state_is_not_changed(three_domains: Domains, tiny_info: ModelInfo) -> None:
    random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), torch.rand(1).item()
    random.seed(1)
    torch.manual_seed(1)
    assert len(list(training_batches(three_domains, tiny_info).steps(0, 2))) == 2
    assert (random.random(), torch.rand(1).item()) == expected


@pytest.mark.parametrize(("size", "domains", "expected"), [(32, 3, 11), (32, 4, 8), (1, 3, 1), (33, 1, 33)])
def test_a_batch_is_divided_equally_among_domains(size: int, domains: int, expected: int) -> None:
    assert images_per_domain(recipe.Train(batch_size=size), domains) == expected


def test_evaluation_uses_every_image_once_in_order_and_uncropped(three_domains: Domains, tiny_info: ModelInfo) -> None:
    images = three_domains.domains[0].images
    batches = list(evaluation_batches(images, tiny_info, batch_size=8))
    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    assert np.concatenate([labels for _, labels in batches]).tolist() == [image.label for image in images]
    pixels, labels = batches[0]
    assert pixels.dtype == np.float32
    assert labels.dtype == np.int64
    squashed = np.asarray(images[0].decode().resize((8, 8), 2), dtype=np.float64) / 255
    np.testing.assert_allclose(pixels[0].transpose(1, 2, 0), (squashed - 0.5) / 0.5, atol=0.02)


def test_evaluation_uses_the_model_s_preprocessing(tiny_info: ModelInfo) -> None:
    white = Image("white", "white", 0, np.full((5, 9, 3), 255, dtype=np.uint8))
    preprocessing = replace(tiny_info.preprocessing, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    info = replace(tiny_info, image_size=16, preprocessing=preprocessing)
    ((pixels, _),) = evaluation_batches([white], info, 4)
    assert pixels.shape == (1, 3, 16, 16)
    assert [float(channel.mean()) for channel in pixels[0]] == [1.0, 1.0, 0.0]


def test_no_images_to_evaluate_is_an_error(tiny_info: ModelInfo) -> None:
    with pytest.raises(DataError, match="no images"):
        next(evaluation_batches([], tiny_info, 4))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_was_deleted_is_named(three_domains: Domains, tiny_info: ModelInfo, workers: int) -> None:
    deleted = three_domains.training_images()["art"][0]
    assert isinstance(deleted.source, Path)
    deleted.source.unlink()
    for batches in (
        training_batches(three_domains, tiny_info, workers=workers).steps(0, 4),
        evaluation_batches([deleted], tiny_info, 1, workers),
    ):
        with pytest.raises(DataError) as raised:
            list(batches)
        assert raised.value.message == f"{deleted.name} cannot be read: no longer exists"
        assert "run the command again" in raised.value.hint


def test_a_worker_process_that_dies_is_an_error(three_domains: Domains, tiny_info: ModelInfo) -> None:
    image = three_domains.domains[0].images[0]
    with pytest.raises(ToolkitError, match="a worker process that loads images died") as raised:
        list(evaluation_batches([Deadly("a", "a", 0, image.source)], tiny_info, 1, workers=1))
    assert "--workers 0" in raised.value.hint


def test_calibration_draws_equally_from_all_domains(three_domains: Domains, tiny_info: ModelInfo) -> None:
    images_by_domain = {
        name: [replace(image, label=index) for image in images]
        for index, (name, images) in enumerate(three_domains.training_images().items())
    }
    batches = calibration_batches(calibration_images(images_by_domain, 10, seed=0), tiny_info, 4)
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1] * 5
    same = calibration_batches(calibration_images(images_by_domain, 10, seed=0), tiny_info, 4)
    assert all(torch.equal(one.images, other.images) for one, other in zip(batches, same, strict=True))
    other_seed = calibration_batches(calibration_images(images_by_domain, 10, seed=1), tiny_info, 4)
    assert not torch.equal(batches[0].images, other_seed[0].images)


def test_calibration_batches_are_decoded_when_they_are_read(
    three_domains: Domains, tiny_info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = Image.decode
    monkeypatch.setattr(Image, "decode", lambda image: decoded.append(image.name) or decode(image))
    batches = calibration_batches(calibration_images(three_domains.training_images(), 10, seed=0), tiny_info, 4)
    assert (len(batches), decoded) == (3, [])
    iterated = list(batches)
    assert len(decoded) == 10
    for index in (0, 2, -1):
        assert torch.equal(batches[index].images, iterated[index].images)
    assert [len(batch.labels) for batch in batches[1:]] == [4, 2]
    with pytest.raises(IndexError):
        batches[3]
    assert list(calibration_batches({"a": []}, tiny_info, 4)) == []


def test_calibration_takes_all_images_if_there_are_too_few(three_domains: Domains, tiny_info: ModelInfo) -> None:
    batches = calibration_batches(calibration_images(three_domains.training_images(), 1000, 0), tiny_info, 8)
    assert sum(len(batch.labels) for batch in batches) == 32
