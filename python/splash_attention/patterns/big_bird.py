"""Windows, global blocks and random blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from . import draw
from .base import Extent, Grid, Pattern, Rows
from .bits import pack_bits, words
from .cache import cached, stream_of
from .checks import UNLIMITED, check_flag, check_number


class _Lines(NamedTuple):
    """The blocks that each block row keeps: three ranges [begin, end) in this order, and drawn ones.

    drawn: (draws, ..., n), -1 for none.
    """

    head: tuple[Tensor | int, Tensor]
    near: tuple[Tensor, Tensor]
    tail: tuple[Tensor, Tensor]
    drawn: Tensor


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

    def tensors(self, extent: Extent) -> list[Tensor]:
        heads = extent.heads if self.per_head else 1
        if extent.packed:
            if self.length is not None:
                raise ValueError(f"length: packed sequences have their own, got {self.length} too")
            lengths = extent.cu_seqlens_k.long().diff().clamp(0, extent.keys)
            own = self._blocks(lengths)[:, None, None]
            return self._bits(own, self._blocks(extent.keys), heads, extent)
        blocks = self._blocks(self._length(extent.k_start + extent.keys))
        key = self, blocks, heads, extent.backward, extent.device, stream_of(extent.device)
        return cached(key, lambda: self._bits(blocks, blocks, heads, extent))

    def keep(self, grid: Grid) -> Tensor:
        blocks = self._blocks(self._length(grid.end))
        row, column = grid.i // self.block, grid.j // self.block
        inside = (row >= 0) & (row < blocks) & (column >= 0) & (column < blocks)
        mask = self._mask(blocks, blocks, self._heads(grid), grid.i.device)
        row, column = (index.clamp(0, max(0, blocks - 1)).flatten() for index in (row, column))
        if blocks == 0:
            return inside
        kept = mask[0].index_select(-2, row).index_select(-1, column) & inside
        return kept & (grid.j <= grid.i) if self.causal else kept

    def count(self, rows: Rows) -> Tensor:
        if self.causal:
            rows = rows.within(None, 0)
        blocks = self._blocks(self._length(rows.end))
        row = rows.i // self.block
        lines = self._lines(row.clamp(0, max(0, blocks - 1)), torch.full_like(row, blocks), blocks, self._heads(rows))
        kept = torch.zeros_like(row)
        for begin, end in (lines.head, lines.near, lines.tail):
            kept = kept + rows.count(begin * self.block, end * self.block)
        for column in lines.drawn:
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

    def _bits(self, own: Tensor | int, blocks: int, heads: int, extent: Extent) -> list[Tensor]:
        mask = self._mask(own, blocks, heads, extent.device)
        by_row = pack_bits(mask)
        if extent.backward:
            return [by_row, pack_bits(mask.transpose(2, 3))]
        # The forward does not read the transpose, and "every row may see it" is a right answer for every column.
        return [by_row, by_row.new_full((1, 1, blocks, words(blocks)), -1)]

    def _mask(self, own: Tensor | int, blocks: int, heads: int, device: torch.device) -> Tensor:
        """bool (B, heads, blocks, blocks): own is the number of blocks of each sequence, (B, 1, 1), or one for all."""
        row = torch.arange(blocks, device=device)
        own = own if isinstance(own, Tensor) else torch.full_like(row, own)
        lines = self._lines(row, own, blocks, heads)
        kept = torch.zeros((1, 1, 1, 1), dtype=torch.bool, device=device)
        for begin, end in (lines.head, lines.near, lines.tail):
            begin, end = (bound[..., None] if isinstance(bound, Tensor) else bound for bound in (begin, end))
            kept = kept | ((row >= begin) & (row < end))
        kept = kept & (row < own)[..., None]
        if len(lines.drawn) == 0:
            return kept
        places = torch.where(lines.drawn >= 0, lines.drawn, blocks).movedim(0, -1)
        places = places[(None,) * (4 - places.dim())]
        drawn = kept.new_zeros((*places.shape[:-1], blocks + 1)).scatter(-1, places, True)
        return kept | drawn[..., :blocks]

    def _lines(self, row: Tensor, blocks: Tensor, most: int, heads: int) -> _Lines:
        """What the block rows `row` (n,) keep of `blocks` blocks (at most `most`); broadcastable to (B, heads, n)."""
        limit = torch.minimum(row + 1, blocks) if self.causal else blocks
        whole = (row < self.first) | (row >= blocks - self.last)
        # A row that keeps everything is one whose first range ends at the limit; each range begins after the last one.
        head = torch.where(whole, limit, limit.clamp(max=self.first))
        near_begin = torch.maximum(row - self.window // 2, head)
        near_end = torch.maximum(torch.minimum(row + self.window // 2 + 1, limit), near_begin)
        tail = torch.minimum(torch.maximum(blocks - self.last, near_end), limit)
        near_begin, near_end = torch.minimum(near_begin, limit), torch.minimum(near_end, limit)

        candidates = (near_begin - head) + (tail - near_end)
        head_index = torch.arange(heads, device=row.device)[:, None]
        number = draw.sample(draw.stream(self.seed, head_index, row), candidates, min(self.random, most))
        column = number + head
        column = torch.where(column >= near_begin, column + near_end - near_begin, column)
        return _Lines((0, head), (near_begin, near_end), (tail, limit), torch.where(number >= 0, column, -1))
