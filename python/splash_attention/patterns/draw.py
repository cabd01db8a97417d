"""Random draws that are a function of their place: the same on every device, whole or in slices.

The counter hash works on 32-bit words: mix(x) is x ^= x >> 16, x *= 0x7feb352d, x ^= x >> 15, x *= 0x846ca68b,
x ^= x >> 16 (a bijection that C. Wellons found by search). Here a word is a Python int or an int64 tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def mix(word: int | Tensor) -> int | Tensor:
    word = _times(word ^ (word >> 16), 0x7FEB352D)
    word = _times(word ^ (word >> 15), 0x846CA68B)
    return word ^ (word >> 16)


def stream(seed: int, head: int | Tensor, row: int | Tensor) -> int | Tensor:
    """The word from which the draws of one row of one head come; seed has 64 bits."""
    word = mix(mix((seed & _MASK) ^ 0x9E3779B9) ^ (seed >> 32))
    word = mix(_plus(word, _times(head, 0x85EBCA6B)))
    return mix(_plus(word, _times(row, 0xC2B2AE35)))


def draws(word: Tensor, count: int) -> Tensor:
    """The first `count` draws of each stream, (count, *word.shape): 32 bits each."""
    number = torch.arange(1, count + 1, device=word.device).view(-1, *[1] * word.dim())
    return mix(_plus(word, _times(number, 0x27D4EB2F)))


def sample(word: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Floyd's sampling without replacement: min(count, candidates) distinct numbers below `candidates`.

    word, candidates: int64, broadcastable to a shape S. Returns (count, *S); -1 stands for "no number".
    """
    taken = candidates.clamp(max=count)
    chosen: list[Tensor] = []
    for number, drawn in enumerate(draws(word, count)):
        last = candidates - taken + number
        drawn = (drawn * (last + 1)) >> 32
        if chosen:
            drawn = torch.where((torch.stack(chosen) == drawn).any(0), last, drawn)
        chosen.append(torch.where(number < taken, drawn, -1))
    return torch.stack(chosen) if chosen else word.new_empty((0, *torch.broadcast_shapes(word.shape, taken.shape)))


def _plus(a: int | Tensor, b: int | Tensor) -> int | Tensor:
    return (a + b) & _MASK


def _times(a: int | Tensor, b: int) -> int | Tensor:
    """The low 32 bits of a * b. The factor is taken as signed, so that no product leaves int64."""
    return (a * (b if b < 2**31 else b - 2**32)) & _MASK
