"""The strided pattern of sparse transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._constants import UNLIMITED
from .base import Grid, Pattern, Rows
from .checks import check_number, limited
from .comb import count_comb


@dataclass(frozen=True)
class Strided(Pattern):
    """j <= i and (i - j < local or (i - j) % stride == 0): the last `local` keys, and every stride-th key back.

    ValueError for local < 1 or a stride outside of 1 to 2**30. Child et al. 2019, "Generating Long Sequences with
    Sparse Transformers", both heads of its strided factorisation joined.
    """

    name: ClassVar[str] = "strided"

    local: int
    stride: int

    def __post_init__(self):
        check_number("local", self.local, 1)
        check_number("stride", self.stride, 1, UNLIMITED)

    def ints(self) -> list[int]:
        return [limited(self.local), self.stride]

    def keep(self, grid: Grid) -> Tensor:
        distance = grid.i - grid.j
        return (distance >= 0) & ((distance < limited(self.local)) | (distance % self.stride == 0))

    def count(self, rows: Rows) -> Tensor:
        local = limited(self.local)
        beyond = (local + self.stride - 1) // self.stride
        return rows.count(rows.i - local + 1, rows.i + 1) + count_comb(rows, self.stride, beyond, UNLIMITED)

    def band(self):
        return (None, 0) if self.stride == 1 else None

    def is_causal(self) -> bool:
        return True
