"""Which blocks of positions the rows and columns of a problem lie in: the lines and bits of tables of blocks.

A table by rows has a line a block of rows and a bit a block of columns, one by columns the reverse. Both begin with the
block of the problem's first position that is not negative, so that a slice of a long sequence has its own blocks only.
The tables of packed sequences lie one after the other: that of a sequence which begins at row n of the tensor begins at
line n // block + 2 * (sequences before it), which leaves room for every line before it, and C++ knows without a list.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._values import larger, smaller
from .base import Extent


class Lines(NamedTuple):
    """The lines of one table, int32 or int64 (n,) or (B, 1, n).

    block: what a line stands for. own: the number of blocks of its sequence, 0 for a line of none. bit: where the
    other table has this block. first: the block of bit 0 of the line. bits: how many it has. other: the line of the
    other table that stands for block `first`.
    """

    block: Tensor
    own: Tensor | int
    bit: Tensor
    first: Tensor | int
    bits: int
    other: Tensor | int


def ends_of(extent: Extent) -> Tensor | int:
    """The position after the last key, at least 0: int64 (batch,) where each entry or sequence has its own."""
    if extent.packed:
        _, count = _spans(extent.cu_seqlens_k, extent.columns, extent.keys)
    elif extent.lengths is not None:
        return extent.lengths.long().clamp(min=0)
    elif extent.kv_lengths is not None:
        count = extent.kv_lengths.long().clamp(0, extent.keys)
    else:
        return larger(0, extent.k_start + extent.keys)
    return (count + extent.k_start).clamp(min=0)


def place_of(extent: Extent, block: int) -> tuple[int, int, int, int]:
    """First block and number of blocks of the rows, then of the columns, where all entries have the same."""
    rows = _origin(extent.first_query, block), blocks_between(extent.first_query, extent.queries, block)
    return *rows, _origin(extent.k_start, block), blocks_between(extent.k_start, extent.keys, block)


class Sizes(NamedTuple):
    """How many lines one table has, and how many bits a line."""

    lines: int
    bits: int


def sizes_of(extent: Extent, block: int) -> tuple[Sizes, Sizes]:
    """Those of the tables by rows and by columns."""
    if extent.packed:
        rows, columns = (total // block + 2 * extent.batch for total in (extent.rows, extent.columns))
        row_bits, column_bits = _packed_bits(extent, block)
        return Sizes(rows, column_bits), Sizes(columns, row_bits)
    _, rows, _, columns = place_of(extent, block)
    if extent.kv_lengths is not None:
        rows = _most_blocks(extent.queries, block)
    return Sizes(rows, columns), Sizes(columns, rows)


def lines_of(extent: Extent, block: int, end: Tensor | int) -> tuple[Lines, Lines]:
    """The lines of the tables by rows and by columns, of sequences that end before position `end`, int64 (batch,)."""
    own = (end + block - 1) // block
    if extent.packed:
        return _packed_lines(extent, block, own)
    first_row, rows, first_column, columns = place_of(extent, block)
    if isinstance(own, Tensor):
        own = own.int()[:, None, None]
    if extent.kv_lengths is not None:
        held = extent.kv_lengths.long().clamp(0, extent.keys)
        first_row = _origin(held + (extent.k_start - extent.queries), block).int()[:, None, None]
        rows = _most_blocks(extent.queries, block)
    row, column = (torch.arange(count, device=extent.device, dtype=torch.int32) for count in (rows, columns))
    row_block, column_block = row + first_row, column + first_column
    return (
        Lines(row_block, own, row, first_column, columns, 0),
        Lines(column_block, own, column, first_row, rows, 0),
    )


def blocks_between(start: int, count: int, block: int) -> int:
    """Blocks that `count` positions from `start` on lie in; positions before 0 count as 0."""
    if count == 0:
        return 0
    return larger(start + count - 1, 0) // block - _origin(start, block) + 1


def _packed_lines(extent: Extent, block: int, own: Tensor) -> tuple[Lines, Lines]:
    first_column = _origin(extent.k_start, block)
    bits = _packed_bits(extent, block)
    row, rows = _spans(extent.cu_seqlens_q, extent.rows, extent.queries)
    column, columns = _spans(extent.cu_seqlens_k, extent.columns, extent.keys)
    q_start = columns - rows + extent.k_start
    first = _origin(q_start, block), torch.full_like(column, first_column)
    before = 2 * torch.arange(extent.batch, device=extent.device)
    begin = row // block + before, column // block + before
    found = []
    for side, (start, count, total) in enumerate(
        ((q_start, rows, extent.rows), (extent.k_start, columns, extent.columns))
    ):
        line = torch.arange(total // block + 2 * extent.batch, device=extent.device)
        if extent.batch == 0:
            found.append(Lines(line, torch.zeros_like(line), line, 0, bits[1 - side], 0))
            continue
        sequence = (torch.searchsorted(begin[side], line, right=True) - 1).clamp(min=0)
        at = line - begin[side][sequence]
        lines = torch.where(count > 0, (start + count - 1).clamp(min=0) // block - first[side] + 1, 0)
        number = at + first[side][sequence]
        exists = (at >= 0) & (at < lines[sequence])
        of_other = first[1 - side][sequence], bits[1 - side], begin[1 - side][sequence]
        found.append(Lines(number, torch.where(exists, own[sequence], 0), at, *of_other))
    return found[0], found[1]


def _packed_bits(extent: Extent, block: int) -> tuple[int, int]:
    """Blocks of rows and of columns that one sequence has at most."""
    return (
        _most_blocks(smaller(extent.rows, extent.queries), block),
        blocks_between(extent.k_start, smaller(extent.columns, extent.keys), block),
    )


def _spans(ends: Tensor, total: int, longest: int) -> tuple[Tensor, Tensor]:
    """First row and number of rows of each sequence, clamped to the tensor and to the longest as the kernels do it."""
    ends = ends.long().clamp(0, total)
    return ends[:-1], ends.diff().clamp(0, longest)


def _origin(start: Tensor | int, block: int) -> Tensor | int:
    """The block in which the first position that is not negative lies."""
    return (start.clamp(min=0) if isinstance(start, Tensor) else larger(start, 0)) // block


def _most_blocks(count: int, block: int) -> int:
    """Blocks that `count` positions lie in at most, wherever they start."""
    return 0 if count == 0 else (count + 2 * block - 2) // block
