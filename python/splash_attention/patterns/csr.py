"""Compressed sparse rows: checked, and as masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._values import checkable, compiling
from .checks import check_device, check_tensor, shape_of
from .opaque import register


class Entries(NamedTuple):
    """Row and column of every entry, int64 (..., nnz). An entry that does not exist has row = rows, column = 0."""

    row: Tensor
    column: Tensor


def check_csr(crow: Tensor, col: Tensor, rows: int, columns: int, validate: bool) -> None:
    """crow (..., rows + 1), col (..., nnz). Values are checked on the CPU, elsewhere with `validate`, which waits."""
    for name, tensor in (("crow", crow), ("col", col)):
        check_tensor(name, tensor, 1, 3, "(batch, heads, entries)")
        if tensor.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name}: expected int32 or int64, got {tensor.dtype}")
    check_device("col", col, crow.device)
    if crow.shape[-1] != rows + 1:
        raise ValueError(f"crow: expected {rows + 1} offsets for {rows} rows, got shape {shape_of(crow)}")
    if crow.shape[:-1] != col.shape[:-1]:
        raise ValueError(f"col: expected crow's batches and heads, {shape_of(crow)}, got shape {shape_of(col)}")
    nnz = col.shape[-1]
    if checkable(crow, validate) and bool(
        (crow[..., :1] != 0).any() | (crow[..., -1:] != nnz).any() | (crow.diff(dim=-1) < 0).any()
    ):
        raise ValueError(f"crow: expected offsets that rise from 0 to col's {nnz} entries")
    if nnz and checkable(col, validate) and bool((col < 0).any() | (col >= columns).any()):
        least, largest = (int(extreme) for extreme in torch.aminmax(col))
        raise ValueError(f"col: expected columns from 0 to {columns - 1}, got {least} to {largest}")


def entries(crow: Tensor, col: Tensor, columns: int) -> Entries:
    """Every entry's row and column; entries outside of the matrix and of the offsets do not exist."""
    rows = crow.shape[-1] - 1
    number = torch.arange(col.shape[-1], device=col.device).expand(col.shape).contiguous()
    # Offsets that fall cannot be searched: where device values cannot be checked, they are made to rise.
    offsets = crow.long().cummax(-1).values
    row = torch.searchsorted(offsets.contiguous(), number, right=True) - 1
    exists = (row >= 0) & (row < rows) & (col >= 0) & (col < columns)
    return Entries(torch.where(exists, row, rows), torch.where(exists, col.long(), 0))


def dense(found: Entries, rows: int, columns: int) -> Tensor:
    """bool (..., rows, columns)."""
    mask = found.row.new_zeros((*found.row.shape[:-1], (rows + 1) * columns), dtype=torch.bool)
    mask = mask.scatter(-1, found.row * columns + found.column, True) if columns else mask
    return mask[..., : rows * columns].unflatten(-1, (rows, columns))


@register("mask_of_csr", torch.bool)
def _shapes(crow, col, rows, columns):
    return [(*col.shape[:-1], rows, columns)]


def mask_of_csr(crow: Tensor, col: Tensor, rows: int, columns: int) -> Tensor:
    """bool (..., rows, columns)."""
    if compiling():
        return torch.ops.splash.mask_of_csr(crow, col, rows, columns)
    return dense(entries(crow, col, columns), rows, columns)
