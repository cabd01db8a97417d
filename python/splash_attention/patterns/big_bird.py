"""Windows, global blocks and random blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .._constants import UNLIMITED
from .._values import smaller
from . import draw, opaque
from .base import Encoded, Extent, Grid, Pattern, Rows
from .bits import range_bits, words
from .block_lines import Lines, blocks_between, ends_of, lines_of, place_of, sizes_of
from .cache import cached, stream_of
from .checks import check_flag, check_number, four, limited

_MOST_POSITIONS = 2**29


class _Ranges(NamedTuple):
    """What block lines keep beside drawn blocks: the blocks from begin to end - 1, of three ranges in this order."""

    begin: tuple[Tensor, Tensor, Tensor]
    end: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class BigBird(Pattern):
    """By blocks of positions, as a set: neighbours, the first and last blocks, and random ones.

    With row = i // block, column = j // block and blocks = ceil(length / block), kept where |row - column| <=
    window // 2 (window is odd), or row or column is among the `first` or the `last` ones, or column is one of the
    `random` further blocks that the row draws uniformly, without replacement, from all that it does not keep anyway
    (fewer where fewer are left). causal: only blocks up to the own one and j <= i, and the draw is among earlier
    blocks. The draw is a counter hash of (seed, head where per_head, row): see splash_attention.patterns.draw.

    length: that of the whole sequence, by default each one's own, read on the device: k_start + Nk without padding, the
    entry of `lengths` in right-padded batches, k_start + kv_lengths in caches, and of packed sequences that of each; so
    every sequence keeps what it would keep alone. A slice that gives it knows the last blocks and keeps what the whole
    keeps. ValueError for an even window, negative numbers, a block outside of 1 to 2**30, a seed outside of 64 bits, or
    a length with packed sequences.
    Zaheer et al. 2020, "Big Bird: Transformers for Longer Sequences".
    """

    name: ClassVar[str] = "big_bird"
    by_place: ClassVar[bool] = True

    block: int = 64
    window: int = 3
    first: int = 1
    last: int = 1
    random: int = 3
    seed: int = 0
    per_head: bool = False
    causal: bool = False
    length: int | None = None

    def __post_init__(self):
        check_number("block", self.block, 1, UNLIMITED)
        check_number("window", self.window, 1, UNLIMITED)
        if self.window % 2 == 0:
            raise ValueError(f"window: expected an odd number of blocks, got {self.window}")
        for field in ("first", "last", "random"):
            check_number(field, getattr(self, field), 0, UNLIMITED)
        check_number("seed", self.seed, 0, 2**64 - 1)
        check_flag("per_head", self.per_head)
        check_flag("causal", self.causal)
        check_number("length", self.length, 0, _MOST_POSITIONS, optional=True)

    def ints(self) -> list[int]:
        return [self.block, int(self.causal), self.first, self.last]

    def encode(self, extent: Extent) -> Encoded:
        # A problem's own end goes without saying; said, it would tie a graph to the lengths that it was made with.
        positions = UNLIMITED if self.length is None else limited(self._blocks(self.length) * self.block)
        return Encoded(self.name, [*self.ints(), positions], opaque.tensors_of(self, extent))

    def fit(self, extent: Extent) -> None:
        if extent.packed and self.length is not None:
            raise ValueError(f"length: packed sequences have their own, got {self.length} too")

    def tensors(self, extent: Extent) -> list[Tensor]:
        """Bits of the columns that a row keeps, and of the rows that keep a column."""
        self.fit(extent)
        heads, end = extent.heads if self.per_head else 1, self._end(extent)
        if extent.own_lengths:
            return self._bits(extent, end, heads)
        place = place_of(extent, self.block)
        key = self, self._blocks(end), place, heads, extent.backward, extent.device, stream_of(extent.device)
        return cached(key, lambda: self._bits(extent, end, heads))

    def tensors_in_graphs(self, extent: Extent) -> Sequence[Tensor]:
        self.fit(extent)
        seed = self.seed if self.seed < 2**63 else self.seed - 2**64
        return torch.ops.splash.big_bird_bits(
            torch.empty(0, device=extent.device), self.block, self.window, self.first, self.last, self.random, seed,
            self.per_head, self.causal, -1 if self.length is None else self.length, extent.batch, extent.heads,
            extent.queries, extent.keys, extent.first_query, extent.k_start, extent.lengths, extent.kv_lengths,
            extent.cu_seqlens_q, extent.cu_seqlens_k, extent.rows, extent.columns, extent.backward,
        )  # fmt: skip

    def keep(self, grid: Grid) -> Tensor:
        end = max(0, grid.end) if self.length is None else self.length
        row, k_start = grid.i.flatten() // self.block, grid.end - grid.j.shape[-1]
        own = torch.where(row >= 0, self._blocks(end), 0)
        row, first = row.clamp(min=0), max(0, k_start) // self.block
        lines = Lines(row, own, row, first, blocks_between(k_start, grid.j.shape[-1], self.block), 0)
        ranges = self._ranges(row, own)
        drawn = self._drawn(row, ranges, self._heads(grid), self._blocks(end))
        bits = _with_drawn(four(_range_bits(lines, ranges)), *_places(lines, drawn))
        column = (grid.j.flatten() // self.block - first).clamp(min=0)
        kept = ((bits.index_select(-1, column // 32) >> (column % 32)) & 1).bool() & (grid.j >= 0)
        return kept & (grid.j <= grid.i) if self.causal else kept

    def count(self, rows: Rows) -> Tensor:
        if self.causal:
            rows = rows.within(None, 0)
        blocks = self._blocks(max(0, rows.end) if self.length is None else self.length)
        row = rows.i // self.block
        own = torch.where(row >= 0, blocks, 0)
        row = row.clamp(min=0)
        ranges = self._ranges(row, own)
        kept = torch.zeros_like(row)
        for begin, end in zip(*ranges, strict=True):
            kept = kept + rows.count(begin * self.block, end * self.block)
        for column in self._drawn(row, ranges, self._heads(rows), blocks):
            kept = kept + torch.where(column >= 0, rows.count(column * self.block, (column + 1) * self.block), 0)
        return kept

    def is_causal(self) -> bool:
        return self.causal

    def _heads(self, grid: Grid | Rows) -> int:
        return grid.heads if self.per_head else 1

    def _end(self, extent: Extent) -> Tensor | int:
        """The position after the last one, int64 (batch,) where each entry or sequence has its own."""
        return ends_of(extent) if self.length is None else self.length

    def _blocks(self, length):
        return (length + self.block - 1) // self.block

    def _bits(self, extent: Extent, end: Tensor | int, heads: int) -> list[Tensor]:
        """int32 (B or 1, heads, lines, words), packed (heads, lines, words): by rows and by columns."""
        rows, columns = lines_of(extent, self.block, end)
        ranges = self._ranges(rows.block, rows.own)
        most = end if self.length is not None or not extent.own_lengths else self._last_end(extent)
        drawn = self._drawn(rows.block, ranges, heads, self._blocks(most))
        shaped = _unsqueezed if extent.packed else four
        by_row = _with_drawn(shaped(_range_bits(rows, ranges)), *_places(rows, drawn))
        if not extent.backward:
            # The forward does not read it, and "every row may see it" is a right answer for every column.
            lines = [1] * (by_row.dim() - 2)
            return [by_row, by_row.new_full((*lines, columns.block.shape[-1], words(columns.bits)), -1)]
        ranges = self._ranges(columns.block, columns.own, by_column=True)
        by_column = shaped(_range_bits(columns, ranges))
        return [by_row, _with_drawn(by_column, *_places_by_column(rows, columns.bits, drawn))]

    def _last_end(self, extent: Extent) -> int:
        """What no end is after."""
        whole = extent.lengths is None or (extent.k_start == 0 and extent.first_query == 0)
        return max(0, extent.k_start + extent.keys) if whole else _MOST_POSITIONS

    def _ranges(self, line: Tensor, own: Tensor | int, by_column: bool = False) -> _Ranges:
        """What block rows `line` (..., n), or block columns, keep of `own` blocks: nothing where they lie behind."""
        own = torch.where(line < own, own, 0)
        low, high = torch.zeros_like(line), own
        if self.causal and by_column:
            low = line
        elif self.causal:
            high = torch.minimum(line + 1, own)
        whole = (line < self.first) | (line >= own - self.last)
        # A line that keeps everything is one whose first range ends at the limit; each range begins after the last one.
        head = torch.maximum(torch.where(whole, high, high.clamp(max=self.first)), low)
        near_begin = torch.minimum(torch.maximum(line - self.window // 2, head), high)
        near_end = torch.maximum(torch.minimum(line + self.window // 2 + 1, high), near_begin)
        tail = torch.minimum(torch.maximum(near_end, own - self.last), high)
        return _Ranges((low, near_begin, tail), (head, near_end, high))

    def _drawn(self, row: Tensor, ranges: _Ranges, heads: int, most: int) -> Tensor:
        """The columns that the block rows `row` draw: (draws, ..., heads, n), -1 for none. most: blocks."""
        (_, near_begin, tail), (head, near_end, _) = ranges
        candidates = ((near_begin - head) + (tail - near_end)).long()
        head_index = torch.arange(heads, device=row.device)[:, None] if heads > 1 else 0
        number = draw.sample(draw.stream(self.seed, head_index, row.long()), candidates, smaller(self.random, most))
        column = number + head
        column = torch.where(column >= near_begin, column + (near_end - near_begin), column)
        return torch.where(number >= 0, column, -1)


@opaque.register("big_bird_bits")
def _shapes(
    like, block, window, first, last, random, seed, per_head, causal, length, batch, heads, queries, keys, q_start,
    k_start, lengths, kv_lengths, cu_seqlens_q, cu_seqlens_k, rows, columns, transpose,
):  # fmt: skip
    extent = Extent(
        batch, heads, queries, keys, like.device, k_start, cu_seqlens_k, transpose, q_start, lengths, kv_lengths,
        cu_seqlens_q, rows, columns,
    )  # fmt: skip
    by_row, by_column = sizes_of(extent, block)
    own = kv_lengths is not None or (lengths is not None and length < 0)
    lead = (batch if own else 1, heads if per_head and random > 0 else 1)[extent.packed :]
    of_columns = lead if transpose else (1,) * len(lead)
    return [(*lead, by_row.lines, words(by_row.bits)), (*of_columns, by_column.lines, words(by_column.bits))]


def _unsqueezed(table: Tensor) -> Tensor:
    return table[None]


def _range_bits(lines: Lines, ranges: _Ranges) -> Tensor:
    """The bits of the ranges, int32 (..., n, words)."""
    limited = [((bound - lines.first).clamp(0, lines.bits) for bound in bounds) for bounds in ranges]
    return range_bits(zip(*limited, strict=True), words(lines.bits))


def _places(rows: Lines, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the table by rows has the columns that each row draws: the word, whether there is one, and the bit."""
    bit = column - rows.first
    line = torch.arange(column.shape[-1], device=column.device)
    return line * words(rows.bits) + bit // 32, (column >= 0) & (bit >= 0) & (bit < rows.bits), bit % 32


def _places_by_column(rows: Lines, bits: int, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the table by columns, whose lines have `bits` bits."""
    line = column - rows.first
    exists = (column >= 0) & (line >= 0) & (line < rows.bits)
    return (line + rows.other) * words(bits) + rows.bit // 32, exists, rows.bit % 32


def _with_drawn(kept: Tensor, place: Tensor, drawn: Tensor, bit: Tensor) -> Tensor:
    """kept: (..., n, words), none of whose bits is drawn. place, drawn, bit: (draws, ..., n), words and bits."""
    if len(drawn) == 0 or 0 in kept.shape[-2:]:
        return kept
    value = torch.where(drawn, torch.bitwise_left_shift(1, bit), 0).to(torch.int32)
    place, value = (
        tensor.expand(drawn.shape).movedim(0, -1).flatten(-2) for tensor in (torch.where(drawn, place, 0), value)
    )
    place, value = (tensor[(None,) * (kept.dim() - 1 - tensor.dim())] for tensor in (place, value))
    lead = torch.broadcast_shapes(kept.shape[:-2], place.shape[:-1])
    # Every bit comes once, so that sums are unions.
    summed = kept.flatten(-2).expand(*lead, -1).scatter_add(-1, place.expand(*lead, -1), value.expand(*lead, -1))
    return summed.unflatten(-1, kept.shape[-2:])
