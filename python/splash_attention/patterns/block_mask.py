"""Masks by blocks of the tensors at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .band import Causal
from .base import Extent, Grid, Pattern, Rows
from .bits import pack_grid, unexpanded
from .checks import check_block, check_broadcast, check_device, check_number, check_tensor, four, shape_of, together
from .csr import check_csr, mask_of_csr
from .element_mask import ElementMask
from .flex import blocks_of


@dataclass(frozen=True, eq=False)
class BlockMask(Pattern):
    """mask[b, h, row // bm, column // bn], in rows and columns of the tensors at hand, not in positions.

    mask: bool, broadcastable to (B, Hq, ceil(Nq / bm), ceil(Nk / bn)), on the inputs' device; or BlockMask.from_csr(),
    BlockMask.from_flex(). block: b or (bm, bn), multiples of 16; 64 and 128 run at native speed. TypeError for another
    dtype, ValueError for other shapes and sizes and for packed sequences. Compares by identity.
    """

    name: ClassVar[str] = "block_mask"
    tensors_by_batch: ClassVar[bool] = True

    mask: Tensor
    block: int | tuple[int, int]

    def __post_init__(self):
        check_tensor("mask", self.mask, 2, 4, "(batch, heads, rows, columns)")
        if self.mask.dtype is not torch.bool:
            raise TypeError(f"mask: expected dtype torch.bool, got {self.mask.dtype}")
        object.__setattr__(self, "block", check_block(self.block))

    @classmethod
    def from_csr(
        cls,
        crow: Tensor,
        col: Tensor,
        shape: tuple[int, int],
        block: int | tuple[int, int],
        validate: bool = False,
    ) -> BlockMask:
        """Block row r keeps the block columns col[crow[r] : crow[r + 1]].

        crow: (..., block rows + 1), col: (..., entries), int32 or int64, with up to two leading dimensions (batch,
        heads), each 1 or all. shape: (block rows, block columns). Values of CPU tensors are checked, those of others
        with `validate`, which waits for the device; entries outside of the shape keep nothing. TypeError for dtypes,
        ValueError for the rest.
        """
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"shape: expected (block rows, block columns), got {type(shape).__name__}")
        if len(shape) != 2:
            raise ValueError(f"shape: expected (block rows, block columns), got {tuple(shape)}")
        for size in shape:
            check_number("shape", size, 0)
        check_csr(crow, col, *shape, validate)
        return cls(mask_of_csr(crow, col, *shape), block)

    @classmethod
    def from_flex(cls, block_mask) -> Pattern:
        """From a torch.nn.attention.flex_attention.BlockMask; waits for its device.

        Full blocks become a BlockMask. Where its mask function cuts partial blocks, they become BlockMask & Causal() if
        that is what it does with as many queries as keys, and else an ElementMask of all scores: bool (B, H, Nq, Nk).
        TypeError for another type.
        """
        found = blocks_of(block_mask)
        by_sixteen = all(size % 16 == 0 for size in found.block)
        if found.partial.shape[0] == 0:
            return cls(found.whole, found.block)
        if by_sixteen and found.is_causal():
            return cls(found.cut(), found.block) & Causal()
        return ElementMask(found.elements())

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

    def fit(self, extent: Extent) -> None:
        if extent.packed:
            raise ValueError("BlockMask: counts rows and columns of the tensors, which packed sequences do not share")
        self.check(extent.queries, extent.keys)
        check_device("mask", self.mask, extent.device)
        check_broadcast("mask", four(self.mask).shape[:2], (extent.batch, extent.heads), "(batch, heads)")

    def tensors(self, extent: Extent) -> list[Tensor]:
        self.fit(extent)
        mask = four(self.mask)
        return pack_grid(unexpanded(mask), *self.blocks(extent.queries, extent.keys), extent.backward)

    def tensors_in_graphs(self, extent: Extent) -> Sequence[Tensor]:
        self.fit(extent)
        blocks = self.blocks(extent.queries, extent.keys)
        return torch.ops.splash.mask_bits(self.mask, *blocks, extent.backward)

    def keep(self, grid: Grid) -> Tensor:
        lines = [
            index.flatten() // size if extent > 1 else torch.zeros_like(index.flatten())
            for index, size, extent in zip((grid.row, grid.column), self.block, self.mask.shape[-2:], strict=True)
        ]
        mask, rows, columns = together(self.mask, *lines)
        return mask.index_select(-2, rows).index_select(-1, columns).to(grid.row.device)

    def count(self, rows: Rows) -> Tensor:
        Nq, Nk = len(rows.row), rows.end - rows.k_start
        mask = self.mask.expand(*self.mask.shape[:-2], *self.blocks(Nq, Nk)).to(rows.row.device)
        before = torch.nn.functional.pad(mask.long().cumsum(-1), (1, 0)).flatten(-2)
        inside = torch.nn.functional.pad(mask, (0, 1)).flatten(-2)  # one more column, so that both have the same places
        first_of_line = rows.row // self.block[0] * (mask.shape[-1] + 1)

        def kept_before(column: Tensor) -> Tensor:
            place = first_of_line + column // self.block[1]
            return before[..., place] * self.block[1] + inside[..., place] * (column % self.block[1])

        return kept_before(rows.high - rows.k_start) - kept_before(rows.low - rows.k_start)
