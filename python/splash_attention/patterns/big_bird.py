"""Windows, global blocks and random blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from . import draw
from .base import Extent, Grid, Pattern, Rows
from .bits import range_bits, shapes_of_bits, words
from .cache import cached, stream_of
from .checks import UNLIMITED, check_flag, check_number, four


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

    length: that of the whole sequence, by default k_start + Nk and with packed sequences each one's own; a slice that
    gives it knows the last blocks and keeps what the whole keeps. ValueError for an even window, negative numbers, a
    block outside of 1 to 2**30, a seed outside of 64 bits, or a length with packed sequences.
    Zaheer et al. 2020, "Big Bird: Transformers for Longer Sequences".
    """

    name: ClassVar[str] = "big_bird"
    one_operation: ClassVar[bool] = True

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
        check_number("length", self.length, 0, 2**29, optional=True)

    def ints(self) -> list[int]:
        return [self.block, int(self.causal), self.first, self.last]

    def fit(self, extent: Extent) -> None:
        if extent.packed and self.length is not None:
            raise ValueError(f"length: packed sequences have their own, got {self.length} too")

    def shapes(self, extent: Extent) -> list[tuple[int, ...]]:
        blocks = self._blocks(extent.keys if extent.packed else self._length(extent.k_start + extent.keys))
        heads = extent.heads if self.per_head and self.random > 0 else 1
        return shapes_of_bits((extent.batch if extent.packed else 1, heads), blocks, blocks, extent.backward)

    def tensors(self, extent: Extent) -> list[Tensor]:
        self.fit(extent)
        heads = extent.heads if self.per_head else 1
        if extent.packed:
            lengths = extent.cu_seqlens_k.long().diff().clamp(0, extent.keys)
            own = self._blocks(lengths)[:, None, None]
            return self._bits(own, self._blocks(extent.keys), heads, extent.device, extent.backward)
        blocks = self._blocks(self._length(extent.k_start + extent.keys))
        key = self, blocks, heads, extent.backward, extent.device, stream_of(extent.device)
        return cached(key, lambda: self._bits(blocks, blocks, heads, extent.device, extent.backward))

    def keep(self, grid: Grid) -> Tensor:
        blocks = self._blocks(self._length(grid.end))
        row, column = grid.i // self.block, grid.j // self.block
        inside = (row >= 0) & (row < blocks) & (column >= 0) & (column < blocks)
        if blocks == 0:
            return inside
        by_row = self._bits(blocks, blocks, self._heads(grid), grid.i.device, transpose=False)[0][0]
        row, column = (index.clamp(0, blocks - 1).flatten() for index in (row, column))
        of_column = by_row.index_select(-2, row).index_select(-1, column // 32)
        kept = ((of_column >> (column % 32)) & 1).bool() & inside
        return kept & (grid.j <= grid.i) if self.causal else kept

    def count(self, rows: Rows) -> Tensor:
        if self.causal:
            rows = rows.within(None, 0)
        blocks = self._blocks(self._length(rows.end))
        row = rows.i // self.block
        line = row.clamp(0, max(0, blocks - 1))
        ranges = self._ranges(line, blocks)
        kept = torch.zeros_like(row)
        for begin, end in zip(*ranges, strict=True):
            kept = kept + rows.count(begin * self.block, end * self.block)
        for column in self._drawn(line, ranges, blocks, self._heads(rows), blocks):
            kept = kept + torch.where(column >= 0, rows.count(column * self.block, (column + 1) * self.block), 0)
        return torch.where((row >= 0) & (row < blocks), kept, 0)

    def is_causal(self) -> bool:
        return self.causal

    def _heads(self, grid: Grid | Rows) -> int:
        return grid.heads if self.per_head else 1

    def _length(self, end: int) -> int:
        return max(0, end) if self.length is None else self.length

    def _blocks(self, length):
        return (length + self.block - 1) // self.block

    def _bits(
        self, own: Tensor | int, blocks: int, heads: int, device: torch.device, transpose: bool = True
    ) -> list[Tensor]:
        """Bits of the columns that a row keeps, and of the rows that keep a column: int32 (B, heads, blocks, words).

        own: the number of blocks of each sequence, (B, 1, 1), or one for all; blocks: the largest.
        """
        line = torch.arange(blocks, device=device)
        ranges = self._ranges(line, own)
        column = self._drawn(line, ranges, own, heads, blocks)
        drawn, column, count = column >= 0, column.clamp(min=0), words(blocks)
        by_row = _with_drawn(self._range_bits(line, own, ranges), line * count + column // 32, drawn, column % 32)
        if not transpose:
            # The forward does not read it, and "every row may see it" is a right answer for every column.
            return [by_row, by_row.new_full((1, 1, blocks, count), -1)]
        by_column = self._range_bits(line, own, self._ranges(line, own, by_column=True))
        return [by_row, _with_drawn(by_column, column * count + line // 32, drawn, line % 32)]

    def _ranges(self, line: Tensor, own: Tensor | int, by_column: bool = False) -> _Ranges:
        """What the block rows `line` (n,), or block columns, keep of `own` blocks; broadcastable to (B, heads, n)."""
        low, high = torch.zeros_like(line), own
        if self.causal and by_column:
            low = line
        elif self.causal:
            high = (line + 1).clamp(max=own)
        if not isinstance(high, Tensor):
            high = torch.full_like(line, high)
        whole = (line < self.first) | (line >= own - self.last)
        # A line that keeps everything is one whose first range ends at the limit; each range begins after the last one.
        head = torch.maximum(torch.where(whole, high, high.clamp(max=self.first)), low)
        near_begin = torch.minimum(torch.maximum(line - self.window // 2, head), high)
        near_end = torch.maximum(torch.minimum(line + self.window // 2 + 1, high), near_begin)
        tail = torch.minimum(near_end.clamp(min=own - self.last), high)
        return _Ranges((low, near_begin, tail), (head, near_end, high))

    def _range_bits(self, line: Tensor, own: Tensor | int, ranges: _Ranges) -> Tensor:
        """Their bits, int32 (B or 1, 1, n, words)."""
        begin, end = (torch.stack(torch.broadcast_tensors(*bounds)) for bounds in ranges)
        kept = range_bits(begin, end, words(len(line))).sum(0)
        if isinstance(own, Tensor):
            kept = torch.where((line < own)[..., None], kept, 0)
        return four(kept.to(torch.int32))

    def _drawn(self, row: Tensor, ranges: _Ranges, own: Tensor | int, heads: int, most: int) -> Tensor:
        """The columns that the block rows `row` draw: (draws, ..., heads, n), -1 for none."""
        (_, near_begin, tail), (head, near_end, _) = ranges
        candidates = (near_begin - head) + (tail - near_end)
        if isinstance(own, Tensor):
            candidates = torch.where(row < own, candidates, 0)
        head_index = torch.arange(heads, device=row.device)[:, None] if heads > 1 else 0
        number = draw.sample(draw.stream(self.seed, head_index, row), candidates, min(self.random, most))
        column = number + head
        column = torch.where(column >= near_begin, column + (near_end - near_begin), column)
        return torch.where(number >= 0, column, -1)


def _with_drawn(kept: Tensor, place: Tensor, drawn: Tensor, bit: Tensor) -> Tensor:
    """kept: (B or 1, 1, n, words), none of whose bits is drawn. place, drawn, bit: (draws, ..., n), words and bits."""
    if len(drawn) == 0:
        return kept
    value = torch.bitwise_left_shift(drawn, bit).to(torch.int32)
    place, value = (tensor.movedim(0, -1).flatten(-2) for tensor in (place, value))
    place, value = (tensor[(None,) * (3 - tensor.dim())] for tensor in (place, value))
    # Every bit comes once, so that sums are unions.
    summed = kept.flatten(-2).expand(*place.shape[:-1], -1).scatter_add(-1, place, value)
    return summed.unflatten(-1, kept.shape[-2:])
