"""Masks as bits, 32 a word: how C++ reads them."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_bits(mask: Tensor) -> Tensor:
    """(..., n) bool to (..., ceil(n / 32)) int32: bit w of word x is mask[..., 32 x + w], bits past n are 0."""
    length = mask.shape[-1]
    count = words(length)
    # Byte by byte, so that nothing is larger than the mask; a word's first byte is its lowest one.
    bits = torch.nn.functional.pad(mask, (0, count * 32 - length)).view(torch.uint8).unflatten(-1, (count, 4, 8))
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (bits << shifts).sum(-1, dtype=torch.uint8).contiguous().view(torch.int32)[..., 0]


def words(bits: int) -> int:
    return (bits + 31) // 32
