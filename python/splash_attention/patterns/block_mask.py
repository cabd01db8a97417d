"""Masks by blocks of the tensors at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Grid, Pattern
from .bits import pack_bits, words
from .checks import check_broadcast, four, shape_of


@dataclass(frozen=True, eq=False)
class BlockMask(Pattern):
    """mask[b, h, row // bm, column // bn], in rows and columns of the tensors at hand, not in positions.

    mask: bool, broadcastable to (B, Hq, ceil(Nq / bm), ceil(Nk / bn)), on the inputs' device. block: b or (bm, bn),
    multiples of 16. TypeError for another dtype, ValueError for other shapes and sizes. Compares by identity.
    """

    name: ClassVar[str] = "block_mask"

    mask: Tensor
    block: int | tuple[int, int]

    def __post_init__(self):
        if not isinstance(self.mask, Tensor):
            raise TypeError(f"mask: expected a bool tensor, got {type(self.mask).__name__}")
        if self.mask.dtype is not torch.bool:
            raise TypeError(f"mask: expected dtype torch.bool, got {self.mask.dtype}")
        if not 2 <= self.mask.dim() <= 4:
            raise ValueError(
                f"mask: expected 2 to 4 dimensions, (batch, heads, rows, columns), got {shape_of(self.mask)}"
            )
        block = tuple(self.block) if isinstance(self.block, (tuple, list)) else (self.block, self.block)
        if len(block) != 2 or any(isinstance(b, bool) or not isinstance(b, int) or b < 16 or b % 16 for b in block):
            raise ValueError(f"block: expected a multiple of 16 or a pair of them, got {self.block}")
        object.__setattr__(self, "block", block)

    def __repr__(self) -> str:
        return f"BlockMask(mask=<bool {shape_of(self.mask)}>, block={self.block})"

    def ints(self) -> list[int]:
        return list(self.block)

    def blocks(self, Nq: int, Nk: int) -> tuple[int, int]:
        """Block rows and block columns of Nq rows and Nk columns."""
        rows, columns = self.block
        return (Nq + rows - 1) // rows, (Nk + columns - 1) // columns

    def check(self, Nq: int, Nk: int) -> None:
        # A text with the sizes in it, made before it is needed, would tie torch.compile to these sizes.
        check_broadcast("mask", self.mask.shape[-2:], self.blocks(Nq, Nk), "(block rows, block columns)")

    def tensors(self, extent):
        if extent.packed:
            raise ValueError("BlockMask: counts rows and columns of the tensors, which packed sequences do not share")
        self.check(extent.queries, extent.keys)
        if self.mask.device != extent.device:
            raise ValueError(f"mask: expected the inputs' device {extent.device}, got {self.mask.device}")
        mask = four(self.mask)
        check_broadcast("mask", mask.shape[:2], (extent.batch, extent.heads), "(batch, heads)")
        mask = mask.expand(-1, -1, *self.blocks(extent.queries, extent.keys))
        by_row = pack_bits(mask)
        if extent.backward:
            return [by_row, pack_bits(mask.transpose(2, 3))]
        # The forward does not read the transpose, and "every row may see it" is a right answer for every column.
        rows, columns = mask.shape[2:]
        return [by_row, by_row.new_full((1, 1, columns, words(rows)), -1)]

    def keep(self, grid: Grid) -> Tensor:
        lines = [
            index.flatten() // size if extent > 1 else torch.zeros_like(index.flatten())
            for index, size, extent in zip((grid.row, grid.column), self.block, self.mask.shape[-2:], strict=True)
        ]
        rows, columns = (line.to(self.mask.device) for line in lines)
        return self.mask.index_select(-2, rows).index_select(-1, columns).to(grid.row.device)
