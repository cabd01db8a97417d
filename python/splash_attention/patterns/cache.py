"""Tensors that depend on numbers alone, kept for the next call."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from .._torch import current_stream
from .._values import is_capturing, lasting, tracing

_ENTRIES = 64
_BYTES = 2**28
_lock = threading.Lock()
_kept: OrderedDict[Hashable, list[Tensor]] = OrderedDict()
_captured: dict[Hashable, list[Tensor]] = {}
"""What CUDA graphs read: their replays need it for good."""


def cached(key: Hashable, make: Callable[[], list[Tensor]]) -> list[Tensor]:
    """make(), or what it returned for the same key before; the oldest results go beyond 64 of them or 256 MiB in all.

    Nothing is kept while Torch traces, fakes or captures, since such tensors mean nothing afterwards. What a capture
    finds kept stays for good, since the graph reads its memory.
    """
    if tracing():
        return make()
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            if any(map(is_capturing, _kept[key])):
                _captured[key] = _kept[key]
            return _kept[key]
    with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be saved for a backward
        made = make()
    if all(map(lasting, made)) and _bytes(made) <= _BYTES:
        with _lock:
            _kept[key] = made
            while len(_kept) > _ENTRIES or sum(map(_bytes, _kept.values())) > _BYTES:
                _kept.popitem(last=False)
    return made


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def numbers_on(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """(n,) int32 on the device. The copy waits for the device, so that every stream may read the result."""
    return cached((numbers, device), lambda: [torch.tensor(numbers, dtype=torch.int32, device=device)])[0]


def stream_of(device: torch.device) -> int:
    """A number that tells streams apart: what kernels wrote on one of them is not yet there for another."""
    if device.type != "cuda" or tracing():
        return 0
    return current_stream(device.index)
