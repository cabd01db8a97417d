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
    word = mix(_plus_times(word, head, 0x85EBCA6B))
    return mix(_plus_times(word, row, 0xC2B2AE35))


def draws(word: Tensor, count: int) -> Tensor:
    """The first `count` draws of each stream, (count, *word.shape): 32 bits each."""
    return mix(_plus_times(word, _numbers(1, count, word), 0x27D4EB2F))


def sample(word: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Floyd's sampling without replacement: min(count, candidates) distinct numbers below `candidates`.

    word, candidates: int64, broadcastable to a shape S. Returns (count, *S); -1 stands for "no number".
    """
    rank = max(word.dim(), candidates.dim())
    word, candidates = (tensor[(None,) * (rank - tensor.dim())] for tensor in (word, candidates))
    taken = candidates.clamp(max=count)
    number = _numbers(0, count, word)
    last = candidates - taken + number
    drawn = (draws(word, count) * (last + 1)) >> 32
    chosen: list[Tensor] = []
    for latest, otherwise in zip(drawn, last, strict=True):
        if chosen:
            seen = (torch.stack(chosen) == latest).any(0) if len(chosen) > 1 else chosen[0] == latest
            latest = torch.where(seen, otherwise, latest)
        chosen.append(latest)
    # The numbers that are taken come first, and none of them was compared with one that is not.
    return torch.where(number < taken, torch.stack(chosen), -1) if chosen else drawn


def _numbers(first: int, count: int, like: Tensor) -> Tensor:
    """(count, 1, ...): the numbers from `first` on, against the dimensions of `like`."""
    return torch.arange(first, first + count, device=like.device).view(-1, *[1] * like.dim())


def _times(a: int | Tensor, b: int) -> int | Tensor:
    """The low 32 bits of a * b."""
    return (a * _signed(b)) & _MASK


def _plus_times(a: int | Tensor, b: int | Tensor, factor: int) -> int | Tensor:
    """The low 32 bits of a + b * factor."""
    return (a + b * _signed(factor)) & _MASK


def _signed(factor: int) -> int:
    """Of the same low 32 bits, so small that no product with 32 bits leaves int64."""
    return factor if factor < 2**31 else factor - 2**32
