"""The problem that a pattern meets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Extent(NamedTuple):
    """The problem that a pattern's tensors are made for.

    queries, keys: rows and columns of the tensors; with packed sequences (batch of them) those of the longest one.
    k_start, q_start: positions of the first key and the first query, None for the default. backward: also what only the
    backward reads. lengths, kv_lengths: (batch,) int32 on `device`, as attention() takes them. cu_seqlens_q,
    cu_seqlens_k: (batch + 1,) int32 on `device` where sequences are packed, in tensors of `rows` queries and `columns`
    keys.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    device: torch.device
    k_start: int = 0
    cu_seqlens_k: Tensor | None = None
    backward: bool = True
    q_start: int | None = None
    lengths: Tensor | None = None
    kv_lengths: Tensor | None = None
    cu_seqlens_q: Tensor | None = None
    rows: int = 0
    columns: int = 0

    @property
    def packed(self) -> bool:
        return self.cu_seqlens_k is not None

    @property
    def own_lengths(self) -> bool:
        """Whether each batch entry or packed sequence has a length of its own, that only the device knows."""
        return self.packed or self.lengths is not None or self.kv_lengths is not None

    @property
    def first_query(self) -> int:
        """The position of the first query, where all batch entries have the same."""
        return self.k_start + self.keys - self.queries if self.q_start is None else self.q_start
