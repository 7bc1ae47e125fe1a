"""Outputs of a teacher for the images of a training step: computed in every step, or once for each stored view."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toolkit.dg.draws import Draws
from toolkit.dg.extensions.block_tokens import normalised
from toolkit.dg.transforms import resampled
from toolkit.errors import StorageError, plainly
from toolkit.models.model import Model
from toolkit.models.recording import recording

CHUNK = 1 << 20
"""Bytes written at once when a file is created."""


@dataclass(frozen=True)
class TeacherOutputs:
    """Outputs for a batch."""

    logits: Tensor
    """[batch, classes]"""
    classes: Tensor
    """[batch, blocks, class tokens, width], normalised; the blocks are those of the class tokens, in order."""
    tokens: dict[int, Tensor]
    """[batch, tokens, width] by block, not normalised; none of stored views."""


class Teacher(Protocol):
    """A source of outputs."""

    def outputs(self, step: int, images: Tensor) -> TeacherOutputs:
        """Outputs for the images [batch, 3, S, S] of a step."""
        ...


@dataclass(frozen=True)
class LiveTeacher:
    """The teacher itself, in evaluation mode; images of another size than its own are resized for it."""

    model: Model
    class_blocks: Sequence[int]
    class_tokens: int
    """Number of tokens, the first ones, that the classifier reads."""
    token_blocks: Collection[int]

    @torch.no_grad()
    def outputs(self, step: int, images: Tensor) -> TeacherOutputs:
        images = resampled(images, self.model.info.image_size)
        with recording(self.model, {*self.class_blocks, *self.token_blocks}) as recorded:
            logits = self.model.module.to(images.device).eval()(images)
        classes = [normalised(recorded.tokens[block][:, : self.class_tokens]) for block in self.class_blocks]
        stacked = torch.stack(classes, dim=1) if classes else logits.new_zeros(len(images), 0, 0, 0)
        return TeacherOutputs(logits, stacked, {block: recorded.tokens[block] for block in self.token_blocks})


class StoredTeacher:
    """A teacher that sees each view of an image once; its logits and class tokens are kept in a file of float16.

    A step with a view that is not stored yet computes all of its images. What is stored already is used nevertheless:
    a run that is resumed reads what the interrupted one computed in the same steps, and ends with the same numbers.
    """

    def __init__(self, live: LiveTeacher, draws: Draws, width: int, file: Path) -> None:
        self._live, self._draws = live, draws
        self._shape = (len(live.class_blocks), live.class_tokens, width) if live.class_blocks else (0, 0, 0)
        self._classes = len(live.model.info.classes)
        self._offsets = np.concatenate([[0], np.cumsum(draws.sizes)])
        columns = 1 + self._classes + math.prod(self._shape)  # the first one says whether the row is stored
        self._rows = _mapped(file, (sum(draws.sizes) * draws.views, columns))

    def outputs(self, step: int, images: Tensor) -> TeacherOutputs:
        (draws,) = self._draws.steps(step, step + 1)
        rows = np.array(
            [(self._offsets[draw.domain] + draw.image) * self._draws.views + (draw.view or 0) for draw in draws]
        )
        missing = rows[self._rows[rows, 0] == 0]
        if len(missing):
            live = self._live.outputs(step, images)
            values = torch.cat([live.logits, live.classes.flatten(1)], dim=1).float().cpu().numpy()
            self._rows[missing, 1:] = values[self._rows[rows, 0] == 0]
            self._rows[missing, 0] = 1  # last, in case of a kill
        stored = torch.from_numpy(self._rows[rows, 1:].astype(np.float32)).to(images.device)
        logits, classes = stored.split([self._classes, stored.shape[1] - self._classes], dim=1)
        return TeacherOutputs(logits, classes.view(len(rows), *self._shape), {})


def _mapped(file: Path, shape: tuple[int, int]) -> npt.NDArray[np.float16]:
    """A file of float16 mapped into memory, of zeros if it is new. Its blocks are allocated, since a disk that is full
    later cannot be reported; StorageError if it is full now."""
    size = 2 * math.prod(shape)
    if not file.exists() or file.stat().st_size != size:
        partial = file.with_name(f"{file.name}.partial")
        try:
            with partial.open("wb") as writer:
                for start in range(0, size, CHUNK):
                    writer.write(bytes(min(CHUNK, size - start)))
            partial.replace(file)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StorageError(
                f"cannot write {file} ({size / 1e6:,.0f} MB): {plainly(error)}",
                "free disk space, or lower finetune.matching.stored_views",
            ) from error
    return np.memmap(file, np.float16, "r+", shape=shape)
