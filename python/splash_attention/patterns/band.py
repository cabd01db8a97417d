"""Bands of diagonals: everything, causal, and sliding windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Grid, Pattern
from .checks import check_number, limited


@dataclass(frozen=True)
class Full(Pattern):
    """Every score."""

    name: ClassVar[str] = "full"

    def keep(self, grid: Grid) -> Tensor:
        return grid.i.new_ones((1, 1), dtype=torch.bool)

    def band(self):
        return None, None


@dataclass(frozen=True)
class Causal(Pattern):
    """j <= i."""

    name: ClassVar[str] = "causal"

    def keep(self, grid: Grid) -> Tensor:
        return grid.j <= grid.i

    def band(self):
        return None, 0


@dataclass(frozen=True)
class SlidingWindow(Pattern):
    """i - left <= j <= i + right, both inclusive; None is unlimited. ValueError for a negative side.

    Both sides are to be said: one number alone is a TypeError, since some mean the keys of a causal window by it.
    """

    name: ClassVar[str] = "sliding_window"

    left: int | None
    right: int | None = ...  # dataclasses ask for a default, and this one is no side

    def __post_init__(self):
        if self.right is ...:
            raise TypeError(
                f"right: expected an int or None after left {self.left!r}; SlidingWindow.causal(w) keeps the last w "
                "keys, SlidingWindow.symmetric(w) w to either side"
            )
        check_number("left", self.left, 0, optional=True)
        check_number("right", self.right, 0, optional=True)

    @classmethod
    def causal(cls, window: int) -> SlidingWindow:
        """The last `window` keys, the query's own included."""
        check_number("window", window, 1)
        return cls(window - 1, 0)

    @classmethod
    def symmetric(cls, window: int) -> SlidingWindow:
        """|i - j| <= window."""
        check_number("window", window, 0)
        return cls(window, window)

    def ints(self) -> list[int]:
        return [-1 if side is None else limited(side) for side in (self.left, self.right)]

    def keep(self, grid: Grid) -> Tensor:
        kept = Full().keep(grid)
        if self.left is not None:
            kept = kept & (grid.j >= grid.i - limited(self.left))
        if self.right is not None:
            kept = kept & (grid.j <= grid.i + limited(self.right))
        return kept

    def band(self):
        return self.left, self.right
