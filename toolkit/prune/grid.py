"""The blocks that are measured for a cost table: a grid of sizes, small enough for a few minutes of measuring."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from toolkit.errors import BadInput
from toolkit.models.merge import split_of
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.prune.cost_table import shape_of
from toolkit.records import Axis, BlockShape, Matching, Probe

SMALLEST = 8
"""Widths of the smallest blocks, which are measured as the reference of all others."""
FEWEST_TOKENS = 0.2
"""Fewest tokens that a merge may leave, and so that are measured, as a fraction of the image's."""
MULTIPLE = 8
"""Numbers of tokens below the image's are measured at multiples of this."""
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
    matching: Matching | None = None
    """How blocks merge tokens; None if none does."""
    prefix: int = 1
    """Tokens of an image that are never merged."""

    def tiny(self, tokens: int) -> BlockShape:
        """The smallest block with this number of tokens."""
        return replace(self.smallest, tokens_in=tokens, tokens_out=tokens)

    def attentions(self, every: bool = True) -> Iterator[BlockShape]:
        """The smallest block with every measured attention; not `every`: with the smallest and the largest."""
        axes = (self.tokens, self.heads, self.qk, self.v)
        for tokens, heads, qk, v in itertools.product(*(axes if every else map(_ends, axes))):
            yield replace(self.tiny(tokens), heads=heads, qk=heads * qk, v=heads * v)

    def mlps(self, every: bool = True) -> Iterator[BlockShape]:
        """The smallest block with every measured MLP; not `every`: with the smallest and the largest."""
        axes = (self.tokens, self.mlp)
        for tokens, mlp in itertools.product(*(axes if every else map(_ends, axes))):
            yield replace(self.tiny(tokens), mlp=mlp)

    def merges(self) -> Iterator[BlockShape]:
        """The smallest block that merges one token, and as many tokens as possible."""
        for tokens in self.tokens if self.matching else ():
            for remaining in (self.fewest_after(tokens), tokens - 1):
                yield replace(self.tiny(tokens), tokens_out=remaining)

    def fewest_after(self, tokens: int) -> int:
        """Fewest tokens that one merge is measured to leave: half of the patches."""
        split = split_of("bipartite", tokens - self.prefix, tokens - self.prefix - 1)
        return self.prefix + len(split.destinations)

    def probes(self) -> list[Probe]:
        """Models to measure, without chain lengths and without the references of each."""
        blocks = dict.fromkeys((*map(self.tiny, self.tokens), *self.attentions(), *self.mlps(), *self.merges()))
        lasts = dict.fromkeys((*map(self.tiny, self.tokens), *self.attentions(False), *self.mlps(False)))
        resized = zip(self.image_sizes[1:], self.image_tokens[1:], strict=True)
        return [
            *(self._of_block(shape) for shape in blocks),
            *(self._of_last(shape) for shape in lasts),
            *(Probe(size, 0, None, self.tiny(tokens), sized=False) for size, tokens in resized),
        ]

    def references(self, probe: Probe) -> list[Probe]:
        """Probes that are measured interleaved with this one and subtracted: one without its blocks, and for blocks
        that take longer than the smallest, one with the smallest."""
        if probe.image_size != self.image_sizes[0]:
            return []
        tokens = probe.last.tokens_in
        base = self._of_last(self.tiny(tokens))
        if probe.block is None or probe.block.tokens_in != tokens:
            return [base] if probe != base else []
        tiny = self._of_block(self.tiny(tokens))
        return [base] if probe.block == tiny.block else [base, tiny]

    def refined(self, tokens: Iterable[int] = (), qk: Iterable[int] = (), mlp: Iterable[int] = ()) -> Grid:
        """The grid with more measured sizes."""
        return replace(self, tokens=_union(self.tokens, tokens), qk=_union(self.qk, qk), mlp=_union(self.mlp, mlp))

    def _of_block(self, shape: BlockShape) -> Probe:
        merges = shape.tokens_out < shape.tokens_in
        last, sized = self.tiny(shape.tokens_out), self._is_sized(shape.tokens_in)
        return Probe(self.image_sizes[0], 1 if merges else CHAIN, shape, last, sized)

    def _of_last(self, shape: BlockShape) -> Probe:
        return Probe(self.image_sizes[0], 0, None, shape, self._is_sized(shape.tokens_in))

    def _is_sized(self, tokens: int) -> bool:
        return self.matching is not None and tokens < self.smallest.tokens_in


def grid_of(
    model: Model, axes: Collection[Axis], matching: Matching | None = None, image_sizes: Sequence[int] = ()
) -> Grid:
    """A grid for the configurations of a dense model whose blocks are cut along `axes`.

    matching: how blocks merge tokens; None: they do not. image_sizes: other, smaller sizes of the images, in pixels.
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
    prefix = model.parts.prefix_tokens
    fewest = min(by_size) if matching is None else min(*by_size, max(prefix + 2, round(FEWEST_TOKENS * tokens)))
    smallest_qk = qk if any(group.indivisible for group in model.groups) else min(SMALLEST, qk)
    tiny = BlockShape(tokens, tokens, 1, smallest_qk, min(SMALLEST, v), min(SMALLEST, block.mlp))
    return Grid(
        tokens=_union((), (_rounded(size, fewest, tokens) for size in _levels(fewest, tokens))),
        heads=_levels(1, heads) if "head" in axes else (heads,),
        qk=_levels(tiny.qk, qk) if "qk" in axes else (qk,),
        v=_ends((tiny.v, v)) if "v" in axes else (v,),
        mlp=_levels(tiny.mlp, block.mlp) if "mlp" in axes else (block.mlp,),
        image_sizes=sizes,
        image_tokens=by_size,
        smallest=tiny,
        matching=matching,
        prefix=prefix,
    )


def key_of(probe: Probe) -> Probe:
    """What tells a probe from others of its table: everything but the length of its chain, and its samples."""
    return replace(probe, count=0, latency_ms=())


def _rounded(tokens: int, fewest: int, most: int) -> int:
    """The next multiple, between the ends: down at the lower end, where nothing may be left out."""
    if tokens == most:
        return most
    multiple = tokens // MULTIPLE * MULTIPLE
    return multiple if multiple > 0 else fewest


def _levels(low: int, high: int) -> tuple[int, ...]:
    """The ends of a range, and half of its upper end."""
    return tuple(sorted({low, max(low, -(-high // 2)), high}))


def _union(sizes: Iterable[int], more: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({*sizes, *more}))


def _ends(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys((sizes[0], sizes[-1])))
