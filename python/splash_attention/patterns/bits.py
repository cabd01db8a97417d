"""Masks as bits, 32 a word: how C++ reads them.

Eight bools are handled at a time, as the bytes of an int64 of which the first is the lowest one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Times this, byte k of a word that holds 0 or 1 becomes bit 56 + k; what else comes out stays below bit 56, or leaves
# the word: no two of the 64 products meet in one bit, so that nothing is carried.
_GATHER = sum(1 << (56 - 7 * k) for k in range(8))


def pack_bits(mask: Tensor) -> Tensor:
    """(..., n) bool to (..., ceil(n / 32)) int32: bit w of word x is mask[..., 32 x + w], bits past n are 0."""
    return _pack_eights(_view(torch.nn.functional.pad(mask, (0, -mask.shape[-1] % 32)), torch.int64))


def pack_both(mask: Tensor) -> tuple[Tensor, Tensor]:
    """pack_bits of a mask (..., n, m) and of its transpose: (..., n, ceil(m / 32)) and (..., m, ceil(n / 32)).

    The bools are read for the transpose in the order in which they lie, and only their bits are transposed.
    """
    rows, columns = mask.shape[-2:]
    eights = _view(torch.nn.functional.pad(mask, (0, -columns % 32, 0, -rows % 32)), torch.int64)
    shifts = torch.arange(8, device=mask.device)[:, None]
    by_column = _view((eights.unflatten(-2, (words(rows) * 4, 8)) << shifts).sum(-2), torch.uint8)
    by_column = _view(by_column.transpose(-1, -2)[..., :columns, :], torch.int32)
    return _pack_eights(eights[..., :rows, :]), by_column


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


def words(bits: int) -> int:
    return (bits + 31) // 32


def _pack_eights(eights: Tensor) -> Tensor:
    last_bytes = _view(eights * _GATHER, torch.uint8)[..., 7::8].clone(memory_format=torch.contiguous_format)
    return _view(last_bytes, torch.int32)


def _view(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes of its last dimension as another dtype; Tensor.view alone minds the strides of empty dimensions."""
    last = tensor.shape[-1] * tensor.element_size() // dtype.itemsize
    return tensor.contiguous().flatten().view(dtype).view(*tensor.shape[:-1], last)
