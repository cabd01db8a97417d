"""Any mask, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .base import Extent, Grid, Pattern, Rows
from .bits import pack_grid, unexpanded
from .checks import check_broadcast, check_device, check_number, check_tensor, four, shape_of, together
from .csr import Entries, check_csr, dense, entries
from .tiles import EMPTY, tiles_of_entries, tiles_of_mask


class Csr(NamedTuple):
    """A mask as compressed sparse rows: what row r keeps is col[crow[r] : crow[r + 1]]."""

    crow: Tensor
    col: Tensor
    Nq: int
    Nk: int

    def entries(self) -> Entries:
        return entries(self.crow, self.col, self.Nk)


@dataclass(frozen=True, eq=False)
class ElementMask(Pattern):
    """mask[b, h, row, column]: any mask that the other patterns do not name, like trees or documents.

    mask: bool, broadcastable to (B, Hq, Nq, Nk), on the inputs' device; or ElementMask.from_csr(). Tiles of 64 x 64
    scores that keep nothing are skipped, and what keeps all costs no mask; the others cost one bit a score. Rows and
    columns are those of the tensors, not positions. TypeError for another dtype, ValueError for other shapes, devices
    and for packed sequences. Compares by identity.
    """

    name: ClassVar[str] = "element_mask"

    mask: Tensor | None
    csr: Csr | None = None

    def __post_init__(self):
        if (self.mask is None) == (self.csr is None):
            raise ValueError("mask: expected a tensor, or None where compressed sparse rows take its place")
        if self.csr is not None:
            return
        check_tensor("mask", self.mask, 2, 4, "(batch, heads, rows, columns)")
        if self.mask.dtype is not torch.bool:
            raise TypeError(f"mask: expected dtype torch.bool, got {self.mask.dtype}")

    @classmethod
    def from_csr(cls, crow: Tensor, col: Tensor, Nq: int, Nk: int, validate: bool = False) -> ElementMask:
        """Row r keeps the columns col[crow[r] : crow[r + 1]]; no Nq x Nk tensor is ever made.

        crow: (..., Nq + 1), col: (..., nnz), int32 or int64, with up to two leading dimensions (batch, heads), each 1
        or all. A column may come twice. Values of CPU tensors are checked, those of others with `validate`, which
        waits for the device; entries outside of the matrix keep nothing. TypeError for dtypes, ValueError for the rest.
        """
        check_number("Nq", Nq, 0)
        check_number("Nk", Nk, 0)
        check_csr(crow, col, Nq, Nk, validate)
        return cls(None, Csr(crow, col, Nq, Nk))

    def __repr__(self) -> str:
        if self.csr is None:
            return f"ElementMask(mask=<bool {shape_of(self.mask)}>)"
        crow, col, Nq, Nk = self.csr
        return f"ElementMask.from_csr(crow=<{shape_of(crow)}>, col=<{shape_of(col)}>, Nq={Nq}, Nk={Nk})"

    def check(self, Nq: int, Nk: int) -> None:
        if self.csr is None:
            check_broadcast("mask", self.mask.shape[-2:], (Nq, Nk), "(rows, columns)")
        elif (Nq, Nk) != (self.csr.Nq, self.csr.Nk):
            raise ValueError(f"mask: made for (Nq, Nk) = {(self.csr.Nq, self.csr.Nk)}, used with {(Nq, Nk)}")

    def fit(self, extent: Extent) -> None:
        if extent.packed:
            raise ValueError("ElementMask: has a bit a score of the tensors, which packed sequences do not share")
        self.check(extent.queries, extent.keys)
        given, names = (self.mask, "mask") if self.csr is None else (self.csr.col, "crow, col")
        check_device(names, given, extent.device)
        check_broadcast(names, self._lead(), (extent.batch, extent.heads), "(batch, heads)")

    def tensors(self, extent: Extent) -> list[Tensor]:
        self.fit(extent)
        if self.csr is None:
            index, words = tiles_of_mask(unexpanded(four(self.mask)), extent.queries, extent.keys)
        else:
            index, words = tiles_of_entries(self.csr.entries(), extent.queries, extent.keys)
        return [*pack_grid(index != EMPTY, *index.shape[2:], extent.backward), index, words]

    def tensors_in_graphs(self, extent: Extent) -> Sequence[Tensor]:
        self.fit(extent)
        sizes = extent.queries, extent.keys, extent.backward
        if self.csr is None:
            return torch.ops.splash.mask_tiles(self.mask, *sizes)
        return torch.ops.splash.csr_tiles(self.csr.crow, self.csr.col, *sizes)

    def keep(self, grid: Grid) -> Tensor:
        if self.csr is not None:
            return four(self._rows(grid.row.flatten())).to(grid.row.device)
        mask, rows, columns = together(self.mask, grid.row.flatten(), grid.column.flatten())
        mask = mask if mask.shape[-2] == 1 else mask.index_select(-2, rows)
        mask = mask if mask.shape[-1] == 1 else mask.index_select(-1, columns)
        return mask.to(grid.row.device)

    def count(self, rows: Rows) -> Tensor | None:
        if self.csr is None:
            return None
        row, column = (index.to(rows.row.device) for index in self.csr.entries())
        # Sorted, so that an entry that comes again follows itself.
        key = (row * max(1, self.csr.Nk) + column).sort(-1).values
        row, j = key // max(1, self.csr.Nk), key % max(1, self.csr.Nk) + rows.k_start
        own = row.clamp(max=self.csr.Nq - 1)
        kept = (row < self.csr.Nq) & (rows.low[own] <= j) & (j < rows.high[own])
        kept[..., 1:] &= key[..., 1:] != key[..., :-1]
        return row.new_zeros((*row.shape[:-1], self.csr.Nq)).scatter_add(-1, own, kept.long())

    def _lead(self) -> tuple[int, int]:
        """Batches and heads, each 1 or all."""
        return four(self.mask).shape[:2] if self.csr is None else (1, 1, *self.csr.col.shape[:-1])[-2:]

    def _rows(self, rows: Tensor) -> Tensor:
        """bool (..., len(rows), Nk) of neighbouring rows."""
        row, column = self.csr.entries()
        row, rows = together(row, rows)
        found = Entries(row, column.to(row.device))
        if len(rows) == 0:
            return dense(found, 0, self.csr.Nk)
        local = found.row - rows[0]
        inside = (local >= 0) & (local < len(rows)) & (found.row < self.csr.Nq)
        return dense(Entries(torch.where(inside, local, len(rows)), found.column), len(rows), self.csr.Nk)
