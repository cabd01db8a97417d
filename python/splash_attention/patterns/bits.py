"""Masks as bits, 32 a word: how C++ reads them.

Eight bools are handled at a time, as the bytes of an int64 of which the first is the lowest one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .._values import tracing
from .checks import four
from .opaque import register

# Times this, byte k of a word that holds 0 or 1 becomes bit 56 + k; what else comes out stays below bit 56, or leaves
# the word: no two of the 64 products meet in one bit, so that nothing is carried.
_GATHER = sum(1 << (56 - 7 * k) for k in range(8))


_BOOLS = 2**20  # that are handled at a time, where a graph need not be one for all sizes


def pack_bits(mask: Tensor) -> Tensor:
    """(..., n) bool to (..., ceil(n / 32)) int32: bit w of word x is mask[..., 32 x + w], bits past n are 0."""
    if mask.dim() == 1:
        return pack_bits(mask[None])[0]
    parts = [_pack_eights(_eights(part)) for part in _row_parts(mask)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def pack_both(mask: Tensor) -> tuple[Tensor, Tensor]:
    """pack_bits of a mask (..., n, m) and of its transpose: (..., n, ceil(m / 32)) and (..., m, ceil(n / 32)).

    The bools are read for the transpose in the order in which they lie, and only their bits are transposed.
    """
    by_row, by_column = [], []
    for part in _row_parts(mask):
        rows, columns = part.shape[-2:]
        eights = _eights(part, -rows % 32)
        by_row.append(_pack_eights(eights[..., :rows, :]))
        shifts = torch.arange(8, device=mask.device)[:, None]
        transposed = _view((eights.unflatten(-2, (words(rows) * 4, 8)) << shifts).sum(-2), torch.uint8)
        by_column.append(_view(transposed.transpose(-1, -2)[..., :columns, :], torch.int32))
    if len(by_row) == 1:
        return by_row[0], by_column[0]
    return torch.cat(by_row, -2), torch.cat(by_column, -1)


def pack_lines(mask: Tensor, lines: int, bits: int) -> Tensor:
    """pack_bits of a mask that broadcasts to (..., lines, bits), which is never made."""
    repeated = mask.shape[-1] != bits
    packed = torch.where(mask, pack_bits(mask.new_ones(1, bits)), 0) if repeated else pack_bits(mask)
    return packed.expand(*mask.shape[:-2], lines, -1).contiguous()


def pack_grid(mask: Tensor, rows: int, columns: int, transpose: bool) -> list[Tensor]:
    """pack_both of a mask that broadcasts to (..., rows, columns), which is never made.

    Without `transpose`, for those that do not read it, "every row may be kept" stands for every column.
    """
    if transpose and mask.shape[-2:] == (rows, columns):
        return [*pack_both(mask)]
    by_row = pack_lines(mask, rows, columns)
    if not transpose:
        return [by_row, by_row.new_full((1, 1, columns, words(rows)), -1)]
    return [by_row, pack_lines(mask.transpose(-1, -2), columns, rows)]


def unexpanded(tensor: Tensor) -> Tensor:
    """Dimensions along which a tensor only repeats itself, by a stride of 0, with the one entry that they have.

    Not in a graph, which is told shapes alone.
    """
    if tracing():
        return tensor
    for dim in range(tensor.dim()):
        if tensor.shape[dim] > 1 and tensor.stride(dim) == 0 and tensor.numel() > 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def range_bits(ranges: Iterable[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Disjoint ranges of bits, (...) begins and ends, to (..., count) int32 words in which they are set.

    0 <= begin <= end <= 32 * count.
    """
    base = None
    for begin, end in ranges:
        if base is None:
            base = torch.arange(0, 32 * count, 32, device=begin.device, dtype=torch.int32)
            # 2 ** n - 1 for n from 0 to 32, of which the last one is -1.
            ones = (torch.ones(33, device=begin.device, dtype=torch.long) << torch.arange(33, device=begin.device)) - 1
            ones, total = ones.to(torch.int32), 0
        for bound, sign in ((end, 1), (begin, -1)):
            below = (bound.to(torch.int32)[..., None] - base).clamp(0, 32)
            total = total + sign * ones.index_select(0, below.flatten()).view_as(below)
    return total


def shapes_of_bits(lead, rows: int, columns: int, backward: bool) -> list[tuple[int, ...]]:
    """Shapes of the bits of a mask (*lead, rows, columns) and of its transpose, which the forward does without."""
    return [(*lead, rows, words(columns)), (*(lead if backward else (1, 1)), columns, words(rows))]


@register("mask_bits")
def _shapes(mask, rows, columns, transpose):
    return shapes_of_bits(four(mask).shape[:2], rows, columns, transpose)


def words(bits: int) -> int:
    return (bits + 31) // 32


def _row_parts(mask: Tensor) -> tuple[Tensor, ...]:
    """The mask in rows of so many as are handled at a time, multiples of 32."""
    if torch.compiler.is_compiling() or mask.numel() <= _BOOLS:
        return (mask,)
    return mask.split(max(32, _BOOLS * mask.shape[-2] // mask.numel() // 32 * 32), -2)


def _eights(mask: Tensor, rows: int = 0) -> Tensor:
    """Padded to whole words of columns, and by `rows`, as words of eight bools."""
    columns = -mask.shape[-1] % 32
    if torch.compiler.is_compiling() or rows or columns or mask.storage_offset() % 8:
        mask = torch.nn.functional.pad(mask, (0, columns, 0, rows))
    return _view(mask, torch.int64)


def _pack_eights(eights: Tensor) -> Tensor:
    last_bytes = _view(eights * _GATHER, torch.uint8)[..., 7::8].clone(memory_format=torch.contiguous_format)
    return _view(last_bytes, torch.int32)


def _view(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes of its last dimension as another dtype; Tensor.view alone minds the strides of empty dimensions."""
    last = tensor.shape[-1] * tensor.element_size() // dtype.itemsize
    return tensor.contiguous().flatten().view(dtype).view(*tensor.shape[:-1], last)
