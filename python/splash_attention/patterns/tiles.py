"""Element masks as tiles of 64 x 64 scores: which keep something, which keep all, and the bits of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from .._constants import ELEMENT_TILE as TILE
from .._values import checkable, smaller
from .bits import pack_bits, pack_lines, shapes_of_bits
from .checks import four
from .csr import Entries
from .opaque import register

EMPTY, _FULL = -1, -2


def tiles_of_mask(mask: Tensor, Nq: int, Nk: int) -> tuple[Tensor, Tensor]:
    """(index, words) of a bool mask that broadcasts to (B, H, Nq, Nk), along the last two dimensions.

    index: (B, H, tile rows, tile columns) int32, -1 where nothing is kept, -2 where all is, else the number of a
    partial tile. words: (partial tiles, 64, 2) int32, the bits of its rows. Where counting the partial tiles would wait
    for a device, every tile has a number.
    """
    # What is the same for all rows, or columns, is in the tiles of one row, or column, of them.
    rows, columns = (
        TILE if size == 1 and wanted > 1 else wanted for size, wanted in zip(mask.shape[2:], (Nq, Nk), strict=True)
    )
    index, partial = _tiles_of_mask(mask, rows, columns)
    return index.expand(-1, -1, _tiles(Nq), _tiles(Nk)).contiguous(), partial


def _tiles(size: int) -> int:
    """Tiles that so many rows or columns lie in."""
    return (size + TILE - 1) // TILE


def _tiles_of_mask(mask: Tensor, Nq: int, Nk: int) -> tuple[Tensor, Tensor]:
    lines = _whole_tiles(pack_lines(mask, Nq, Nk), Nq, Nk)
    columns = _whole_tiles(pack_bits(mask.new_ones(1, 1, 1, Nk)), 1, Nk)[..., :1, :]
    inside = torch.arange(Nq + -Nq % TILE, device=mask.device).view(-1, 1, TILE, 1) < Nq
    full = (lines == torch.where(inside, columns, 0)).all(-1).all(-1)
    partial = (lines != 0).any(-1).any(-1) & ~full
    if checkable(mask):
        return _index(partial, full, partial.flatten().cumsum(0).view_as(partial) - 1), lines[partial]
    numbers = torch.arange(partial.numel(), device=mask.device).view_as(partial)
    return _index(partial, full, numbers), lines.flatten(0, 3)


def tiles_of_entries(found: Entries, Nq: int, Nk: int) -> tuple[Tensor, Tensor]:
    """The same of the entries (..., nnz) of sparse rows, each of them once or more often."""
    lead = (1, 1, *found.row.shape[:-1])[-2:]
    shape = (*lead, (Nq + TILE - 1) // TILE, (Nk + TILE - 1) // TILE)
    total = shape[0] * shape[1] * shape[2] * shape[3]
    matrix = torch.arange(lead[0] * lead[1], device=found.row.device)[:, None]
    row, column = (index.reshape(lead[0] * lead[1], -1) for index in found)
    tile = (matrix * shape[2] + row // TILE) * shape[3] + column // TILE
    key = torch.where(row < Nq, tile, total) * TILE * TILE + row % TILE * TILE + column % TILE
    key = key.flatten().sort().values
    tile, bit = key // (TILE * TILE), key % (TILE * TILE)
    once = torch.ones_like(key, dtype=torch.bool)
    once[1:] = key[1:] != key[:-1]

    count = key.new_zeros(total + 1).index_add(0, tile, once.long())[:-1].view(shape)
    heights, widths = ((size - torch.arange(0, size, TILE, device=key.device)).clamp(max=TILE) for size in (Nq, Nk))
    full = count == heights[:, None] * widths
    partial = (count > 0) & ~full
    number = partial.flatten().cumsum(0) - 1
    bound = smaller(key.numel(), total)
    if checkable(key):
        bound = int(partial.sum())
    slot = torch.cat([torch.where(partial.flatten(), number, bound), number.new_full((1,), bound)])[tile]
    bits = torch.where(once, torch.ones_like(bit, dtype=torch.int32) << (bit % 32).int(), 0)
    lines = bits.new_zeros((bound + 1) * TILE * 2).index_add(0, slot * TILE * 2 + bit // 32, bits)
    return _index(partial, full, number.view(shape)), lines[: bound * TILE * 2].view(bound, TILE, 2)


def shapes_of_tiles(lead, Nq: int, Nk: int, sizes: tuple[int, int], entries: int | None, backward: bool) -> list:
    """Shapes of the tiles' bits, index and words where nobody counts the partial tiles.

    sizes: the rows and columns that a mask has, 1 where it repeats one. entries: those of sparse rows.
    """
    rows, columns = _tiles(Nq), _tiles(Nk)
    repeated = [1 if size == 1 else tiles for size, tiles in zip(sizes, (rows, columns), strict=True)]
    partial = lead[0] * lead[1] * repeated[0] * repeated[1]
    if entries is not None:
        partial = smaller(entries, partial)
    return [*shapes_of_bits(lead, rows, columns, backward), (*lead, rows, columns), (partial, TILE, 2)]


@register("mask_tiles")
def _shapes_of_mask(mask, rows, columns, transpose):
    return shapes_of_tiles(four(mask).shape[:2], rows, columns, mask.shape[-2:], None, transpose)


@register("csr_tiles")
def _shapes_of_csr(crow, col, rows, columns, transpose):
    lead = (1, 1, *col.shape[:-1])[-2:]
    return shapes_of_tiles(lead, rows, columns, (rows, columns), col.numel(), transpose)


def _whole_tiles(lines: Tensor, Nq: int, Nk: int) -> Tensor:
    """Words (B, H, Nq, words) as (B, H, tile rows, tile columns, 64, 2), zeros past the ends."""
    lines = torch.nn.functional.pad(lines, (0, lines.shape[-1] % 2, 0, -Nq % TILE))
    lines = lines.unflatten(-1, ((Nk + TILE - 1) // TILE, 2)).unflatten(-3, ((Nq + TILE - 1) // TILE, TILE))
    return lines.transpose(3, 4).contiguous()


def _index(partial: Tensor, full: Tensor, number: Tensor) -> Tensor:
    return torch.where(partial, number, torch.where(full, _FULL, EMPTY)).to(torch.int32)
