"""The fixed pattern of sparse transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._constants import UNLIMITED
from .base import Grid, Pattern, Rows
from .checks import check_number
from .comb import count_residues


@dataclass(frozen=True)
class Fixed(Pattern):
    """j <= i and (j // stride == i // stride or j % stride >= stride - summary).

    The keys of the query's own segment of `stride` positions, and the last `summary` keys of every earlier one.
    ValueError for a stride outside of 1 to 2**30 or a summary outside of 0 to stride. Child et al. 2019, "Generating
    Long Sequences with Sparse Transformers", both heads of its fixed factorisation joined.
    """

    name: ClassVar[str] = "fixed"

    stride: int
    summary: int

    def __post_init__(self):
        check_number("stride", self.stride, 1, UNLIMITED)
        check_number("summary", self.summary, 0, self.stride)

    def ints(self) -> list[int]:
        return [self.stride, self.summary]

    def keep(self, grid: Grid) -> Tensor:
        own = grid.j // self.stride == grid.i // self.stride
        return (grid.j <= grid.i) & (own | (grid.j % self.stride >= self.stride - self.summary))

    def count(self, rows: Rows) -> Tensor:
        own = rows.i // self.stride * self.stride
        high = torch.maximum(rows.low, torch.minimum(rows.high, own))
        earlier = count_residues(rows._replace(high=high), self.stride, self.stride - self.summary)
        return rows.count(own, rows.i + 1) + earlier

    def band(self):
        return (None, 0) if self.summary == self.stride else None

    def is_causal(self) -> bool:
        return True
