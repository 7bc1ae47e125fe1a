"""Which blocks of a student and its teacher are compared, and on which tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from toolkit.dg.extensions.block_tokens import probe
from toolkit.errors import BadInput
from toolkit.models.model import Model
from toolkit.models.recording import blocks_by_source

CLASS_DEPTHS, PATCH_DEPTHS = (0.5, 0.75, 1.0), (0.5, 0.75)
"""Default blocks, as fractions of the source architecture's depth."""


@dataclass(frozen=True)
class MatchedBlocks:
    """Blocks by their index in the source architecture."""

    of_classes: tuple[int, ...] = ()
    """Blocks whose class tokens are compared."""
    of_patches: tuple[int, ...] = ()
    """Blocks whose patch tokens are compared."""
    class_tokens: int = 0
    """Number of tokens, the first ones, that the classifier reads."""
    prefix: int = 0
    """Number of tokens before the patches."""
    width: int = 0
    """Residual channels."""

    @property
    def name(self) -> str:
        """What is compared, for the training history."""
        kinds = {"class": self.of_classes, "patch": self.of_patches}
        tokens = " and ".join(kind for kind, blocks in kinds.items() if blocks)
        return f"logits with {tokens} tokens" if tokens else "logits only"


@dataclass(frozen=True)
class Choice:
    """Blocks that the user asks for; empty: the default."""

    class_blocks: Sequence[int]
    patch_blocks: Sequence[int]
    with_classes: bool
    with_patches: bool


def matched_blocks(student: Model, teacher: Model, choice: Choice) -> MatchedBlocks:
    """The blocks of a choice where both models have them, with tokens of the same width.

    A default block that the student lacks is replaced by the one before it. Raises BadInput for a chosen block that
    cannot be compared.
    """
    common = [index for index in blocks_by_source(student) if index in blocks_by_source(teacher)]
    if not common:
        return MatchedBlocks()
    of_student, of_teacher = probe(student, common), probe(teacher, common)
    same = {
        block: tokens
        for block, tokens in of_student.tokens.items()
        if tokens.shape[-1] == of_teacher.tokens[block].shape[-1]
    }
    if not same:
        _check([*choice.class_blocks, *choice.patch_blocks], [])
        return MatchedBlocks()
    depth = len(student.blocks) + len(student.info.removed_blocks)
    class_tokens = student.parts.classifier_tokens or 0
    alike = []
    if _patches(student) == _patches(teacher):
        alike = [
            block for block in same if of_student.merge(of_teacher.tokens[block], block).shape == same[block].shape
        ]
    of_classes = _blocks(choice.class_blocks, CLASS_DEPTHS, depth, [*same])
    of_patches = _blocks(choice.patch_blocks, PATCH_DEPTHS, depth, alike)
    return MatchedBlocks(
        of_classes if choice.with_classes and class_tokens else (),
        of_patches if choice.with_patches else (),
        class_tokens,
        student.parts.prefix_tokens,
        next(iter(same.values())).shape[-1],
    )


def _patches(model: Model) -> int:
    """Number of patches of an image."""
    return (model.info.image_size // model.parts.patch_size) ** 2


def _blocks(chosen: Sequence[int], depths: Sequence[float], depth: int, possible: Sequence[int]) -> tuple[int, ...]:
    """The chosen blocks, or those at the default depths, or else before them."""
    if chosen:
        _check(chosen, possible)
        return tuple(sorted({*chosen}))
    found = set()
    for fraction in depths if possible else ():
        wanted = max(0, round(fraction * depth) - 1)
        found.add(max((block for block in possible if block <= wanted), default=possible[0]))
    return tuple(sorted(found))


def _check(chosen: Collection[int], possible: Sequence[int]) -> None:
    if missing := sorted({*chosen} - {*possible}):
        raise BadInput(
            f"block {missing[0]} of the student cannot be compared with the teacher's",
            f"finetune.matching.class_blocks and patch_blocks: some of {', '.join(map(str, possible)) or 'none'}",
        )
