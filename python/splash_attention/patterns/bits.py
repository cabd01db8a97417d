"""Masks as bits, 32 a word: how C++ reads them."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_bits(mask: Tensor) -> Tensor:
    """(..., n) bool to (..., ceil(n / 32)) int32: bit w of word x is mask[..., 32 x + w], bits past n are 0."""
    length = mask.shape[-1]
    count = words(length)
    bits = torch.nn.functional.pad(mask.to(torch.int32), (0, count * 32 - length)).unflatten(-1, (count, 32))
    shifts = torch.arange(32, dtype=torch.int32, device=mask.device)
    return (bits << shifts).sum(-1, dtype=torch.int32)


def words(bits: int) -> int:
    return (bits + 31) // 32
