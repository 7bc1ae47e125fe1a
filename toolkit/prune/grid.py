"""The blocks that are measured for a cost table: a grid of sizes, small enough for a few minutes of measuring."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from toolkit.errors import BadInput
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.prune.cost_table import shape_of
from toolkit.records import Axis, BlockShape, Probe

SMALLEST = 8
"""Widths of the smallest blocks, which are measured as the reference of all others."""
FEWEST_TOKENS = 0.2
"""Fewest tokens that are measured, as a fraction of the image's."""
CHAIN = 2
"""Number of equal blocks in a probe; more if they are small compared with the rest of the model."""
LONGEST_CHAIN = 4


@dataclass(frozen=True)
class Grid:
    """Measured sizes along each axis, ascending; everything between them is interpolated."""

    tokens: tuple[int, ...]
    heads: tuple[int, ...]
    qk: tuple[int, ...]
    """Query/key widths of one head."""
    v: tuple[int, ...]
    """Value widths of one head."""
    mlp: tuple[int, ...]
    image_sizes: tuple[int, ...]
    """The first is the source model's."""
    image_tokens: tuple[int, ...]
    """Number of tokens of an image of each size."""
    smallest: BlockShape
    """One head and the smallest widths, with all tokens."""

    def at(self, shape: BlockShape, tokens: int) -> BlockShape:
        """A shape with this number of tokens at attention and MLP."""
        return replace(shape, tokens_in=tokens, tokens_out=tokens)

    def attentions(self, every: bool = True) -> Iterator[BlockShape]:
        """The smallest block with every measured attention; not `every`: with the smallest and the largest."""
        axes = (self.tokens, self.heads, self.qk, self.v)
        for tokens, heads, qk, v in itertools.product(*(axes if every else map(_ends, axes))):
            yield replace(self.at(self.smallest, tokens), heads=heads, qk=heads * qk, v=heads * v)

    def mlps(self, every: bool = True) -> Iterator[BlockShape]:
        """The smallest block with every measured MLP; not `every`: with the smallest and the largest."""
        axes = (self.tokens, self.mlp)
        for tokens, mlp in itertools.product(*(axes if every else map(_ends, axes))):
            yield replace(self.at(self.smallest, tokens), mlp=mlp)

    def probes(self) -> list[list[Probe]]:
        """Models to measure, without chain lengths; each list has a reference of its own and is measured interleaved.

        A probe without blocks is the reference of blocks with its tokens, the probe of a smallest block that of larger
        blocks. Each list has both, for the same tokens and image size.
        """
        image, lists = self.image_sizes[0], []
        for tokens in self.tokens:
            tiny = self.at(self.smallest, tokens)
            blocks = [shape for shape in (*self.attentions(), *self.mlps()) if shape.tokens_in == tokens]
            ends = [shape for shape in (*self.attentions(False), *self.mlps(False)) if shape.tokens_in == tokens]
            probes = [Probe(image, 0, None, tiny), Probe(image, CHAIN, tiny, tiny)]
            probes += [Probe(image, CHAIN, shape, tiny) for shape in dict.fromkeys(blocks) if shape != tiny]
            probes += [Probe(image, 0, None, shape) for shape in dict.fromkeys(ends) if shape != tiny]
            lists.append(probes)
        for size, tokens in zip(self.image_sizes[1:], self.image_tokens[1:], strict=True):
            lists.append([Probe(size, 0, None, self.at(self.smallest, tokens))])
        return lists

    def refined(self, tokens: Iterable[int] = (), qk: Iterable[int] = (), mlp: Iterable[int] = ()) -> Grid:
        """The grid with more measured sizes."""
        return replace(self, tokens=_union(self.tokens, tokens), qk=_union(self.qk, qk), mlp=_union(self.mlp, mlp))


def grid_of(model: Model, axes: Collection[Axis], fewer_tokens: bool, image_sizes: Sequence[int] = ()) -> Grid:
    """A grid for the configurations of a dense model whose blocks are cut along `axes`.

    fewer_tokens: whether tokens are merged. image_sizes: other, smaller sizes of the images, in pixels.
    Raises BadInput for larger images, UnsupportedModel for heads that differ in width.
    """
    shape = shape_of(model)
    if max((shape.image_size, *image_sizes)) > shape.image_size:
        raise BadInput(
            f"latencies are measured for images of at most {shape.image_size} pixels, not {max(image_sizes)}",
            "set model.image_size to the largest size",
        )
    block, tokens = shape.blocks[0], shape.blocks[0].tokens_in
    qk, v, heads = block.qk // block.heads, block.v // block.heads, block.heads
    sizes = tuple(dict.fromkeys((shape.image_size, *image_sizes)))
    by_size = tuple(shape_of(resized(model, size)).blocks[0].tokens_in for size in sizes)
    fewest = min(*by_size, max(1, round(FEWEST_TOKENS * tokens))) if fewer_tokens else min(by_size)
    smallest_qk = qk if any(group.indivisible for group in model.groups) else min(SMALLEST, qk)
    tiny = BlockShape(tokens, tokens, 1, smallest_qk, min(SMALLEST, v), min(SMALLEST, block.mlp))
    return Grid(
        tokens=_levels(fewest, tokens),
        heads=_levels(1, heads) if "head" in axes else (heads,),
        qk=_levels(tiny.qk, qk) if "qk" in axes else (qk,),
        v=_ends((tiny.v, v)) if "v" in axes else (v,),
        mlp=_levels(tiny.mlp, block.mlp) if "mlp" in axes else (block.mlp,),
        image_sizes=sizes,
        image_tokens=by_size,
        smallest=tiny,
    )


def _levels(low: int, high: int) -> tuple[int, ...]:
    """The ends of a range, and half of its upper end."""
    return tuple(sorted({low, max(low, -(-high // 2)), high}))


def _union(sizes: Iterable[int], more: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({*sizes, *more}))


def _ends(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys((sizes[0], sizes[-1])))
