"""Stored outputs of a teacher: computed once per view, and read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import toolkit
from toolkit.dg.draws import Draws
from toolkit.dg.extensions.teacher_outputs import LiveTeacher, StoredTeacher, TeacherOutputs
from toolkit.errors import StorageError

DRAWS = Draws(sizes=(4, 2), counts=(2, 1), seed=0, views=2)
EPOCH = 2
"""Steps until every image was drawn once."""


class Counting(LiveTeacher):
    """Counts its calls."""

    calls = 0

    def outputs(self, step: int, images: Tensor) -> TeacherOutputs:
        Counting.calls += 1
        return super().outputs(step, images)


@pytest.fixture(scope="module")
def live() -> Counting:
    args = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
    model = toolkit.load("deit_tiny_patch16_224", ["a", "b"], weights="none", image_size=16, args=args)
    return Counting(model, (0, 1), 1, ())


def view_images(step: int) -> Tensor:
    """An image per view, as training has them."""
    (draws,) = DRAWS.steps(step, step + 1)
    seeds = [int(draw.generator(0).integers(2**31)) for draw in draws]
    return torch.stack([torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_each_view_is_computed_once_and_equals_the_live_outputs(live: Counting, tmp_path: Path) -> None:
    stored = StoredTeacher(live, DRAWS, 24, tmp_path / "outputs")
    first = [stored.outputs(step, view_images(step)) for step in range(2 * EPOCH)]
    Counting.calls = 0
    later = [stored.outputs(step, view_images(step)) for step in range(2 * EPOCH, 4 * EPOCH)]
    assert Counting.calls == 0
    reopened = StoredTeacher(live, DRAWS, 24, tmp_path / "outputs")
    for step, outputs in enumerate([*first, *later]):
        again = reopened.outputs(step, view_images(step))
        expected = live.outputs(step, view_images(step))
        for name in ("logits", "classes"):
            value = getattr(outputs, name)
            assert torch.equal(value, getattr(again, name))
            torch.testing.assert_close(value, getattr(expected, name), atol=2e-3, rtol=2e-3)
    assert first[0].classes.shape == (3, 2, 1, 24)


def test_outputs_of_logits_only_are_stored_too(live: Counting, tmp_path: Path) -> None:
    stored = StoredTeacher(LiveTeacher(live.model, (), 0, ()), DRAWS, 0, tmp_path / "outputs")
    outputs = stored.outputs(0, view_images(0))
    assert outputs.logits.shape == (3, 2)
    assert outputs.classes.numel() == 0


def test_a_file_that_cannot_be_written_is_reported(live: Counting, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*outputs .*MB") as raised:
        StoredTeacher(live, DRAWS, 24, tmp_path / "missing" / "outputs")
    assert "stored_views" in raised.value.hint
