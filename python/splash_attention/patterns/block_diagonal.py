"""Blocks along the diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._constants import UNLIMITED
from .base import Grid, Pattern, Rows
from .checks import check_flag, check_number


@dataclass(frozen=True)
class BlockDiagonal(Pattern):
    """i // block == j // block, and j <= i where `causal`: each block of positions sees itself.

    ValueError for a block outside of 1 to 2**30. Qiu et al. 2020, "Blockwise Self-Attention for Long Document
    Understanding", with the identity permutation.
    """

    name: ClassVar[str] = "block_diagonal"

    block: int
    causal: bool = False

    def __post_init__(self):
        check_number("block", self.block, 1, UNLIMITED)
        check_flag("causal", self.causal)

    def ints(self) -> list[int]:
        return [self.block, int(self.causal)]

    def keep(self, grid: Grid) -> Tensor:
        kept = grid.i // self.block == grid.j // self.block
        return kept & (grid.j <= grid.i) if self.causal else kept

    def count(self, rows: Rows) -> Tensor:
        begin = rows.i // self.block * self.block
        end = begin + self.block
        return rows.count(begin, torch.minimum(end, rows.i + 1) if self.causal else end)

    def is_causal(self) -> bool:
        return self.causal
