"""What pruning left of a model, block by block: the numbers of a picture, for a terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.records import BlockSummary, HeadLayout, ModelSummary
from toolkit.report import numbers


@dataclass(frozen=True)
class Cell:
    """What is left of one size."""

    kept: float
    """Fraction of the dense model's; above 1 where merging tokens costs more MACs than it saves."""
    text: str


@dataclass(frozen=True)
class Row:
    """A block of the dense model, or the whole model."""

    block: int | None
    """Index in the source architecture; None for the whole model."""
    cells: tuple[Cell | None, ...]
    """One for each column; None where it has no meaning. Empty for a removed block."""
    layout: HeadLayout | None = None
    """Heads that are left of the block."""


@dataclass(frozen=True)
class Picture:
    """Rows: blocks of the dense model, then the whole model. Columns: sizes."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    """What is the same for all blocks, or holds for one."""


def picture_of(dense: ModelSummary, slim: ModelSummary) -> Picture:
    """The picture of a model and what pruning made of it.

    Widths and heads are "96/192", kept/dense; tokens are those of the slim model; MACs are percentages.
    """
    columns = _columns(slim)
    remaining = {block.block: block for block in slim.blocks}
    rows = [
        Row(block.block, tuple(column.of_block(block, left) for column in columns), left.layout)
        if (left := remaining.get(block.block))
        else Row(block.block, ())
        for block in dense.blocks
    ]
    whole = Row(None, tuple(column.of_model(dense, slim) for column in columns))
    return Picture(tuple(column.name for column in columns), (*rows, whole), _notes(dense, slim))


@dataclass(frozen=True)
class _Column:
    name: str
    of_block: Callable[[BlockSummary, BlockSummary], Cell | None]
    """From a block of the dense model, and what is left of it."""
    of_model: Callable[[ModelSummary, ModelSummary], Cell | None]


def _columns(slim: ModelSummary) -> tuple[_Column, ...]:
    widths = (
        _width("heads", lambda block: len(block.layout.heads)),
        _width("query/key", lambda block: block.layout.qk_width),
        _width("value", lambda block: block.layout.v_width),
        _width("MLP", lambda block: block.mlp_width),
    )
    if all(block.tokens_in == block.tokens_out for block in slim.blocks):
        return (*widths, _tokens("tokens", lambda block: block.tokens_in), _MACS)
    incoming = _tokens("tokens in", lambda block: block.tokens_in)
    return (*widths, incoming, _tokens("tokens out", lambda block: block.tokens_out), _MACS)


def _width(name: str, width: Callable[[BlockSummary], int]) -> _Column:
    return _Column(
        name,
        lambda dense, slim: _part(width(slim), width(dense)),
        lambda dense, slim: _part(sum(map(width, slim.blocks)), sum(map(width, dense.blocks))),
    )


def _tokens(name: str, count: Callable[[BlockSummary], int]) -> _Column:
    return _Column(
        name, lambda dense, slim: Cell(count(slim) / count(dense), f"{count(slim):,}"), lambda dense, slim: None
    )


def _part(kept: int, whole: int) -> Cell:
    return Cell(kept / whole, f"{kept}/{whole}")


def _fraction(kept: int, whole: int) -> Cell:
    return Cell(kept / whole, numbers.percent(kept / whole))


_MACS = _Column(
    "MACs", lambda dense, slim: _fraction(slim.macs, dense.macs), lambda dense, slim: _fraction(slim.macs, dense.macs)
)


def _notes(dense: ModelSummary, slim: ModelSummary) -> tuple[str, ...]:
    notes = []
    if slim.embed_width < dense.embed_width:
        notes.append(f"residual width {slim.embed_width}/{dense.embed_width} in all blocks")
    if slim.trim_last_block:
        count = slim.blocks[-1].tokens_out
        tokens = "the class token only" if count == 1 else f"only the {count} tokens that the classifier reads"
        notes.append(f"the last block computes {tokens}")
    return tuple(notes)
