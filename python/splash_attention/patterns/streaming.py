"""Attention sinks and a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Grid, Pattern, Rows
from .checks import check_number, limited


@dataclass(frozen=True)
class Streaming(Pattern):
    """j <= i and (j < sink or i - j < window): the first `sink` keys and the last `window` ones.

    The window counts the query's own key, sinks come on top. ValueError for sink < 0 or window < 1.
    Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks".
    """

    name: ClassVar[str] = "streaming"

    sink: int = 16
    window: int = 64

    def __post_init__(self):
        check_number("sink", self.sink, 0)
        check_number("window", self.window, 1)

    def ints(self) -> list[int]:
        return [limited(self.sink), limited(self.window)]

    def keep(self, grid: Grid) -> Tensor:
        sink, window = self.ints()
        return (grid.j <= grid.i) & ((grid.j < sink) | (grid.i - grid.j < window))

    def count(self, rows: Rows) -> Tensor:
        sink, window = self.ints()
        end = rows.i + 1
        sinks = end.clamp(max=sink)
        return rows.count(rows.low, sinks) + rows.count(torch.maximum(end - window, sinks), end)

    def is_causal(self) -> bool:
        return True
