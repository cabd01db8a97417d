"""Dilated windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._constants import UNLIMITED
from .base import Encoded, Extent, Grid, Pattern, Rows
from .cache import numbers_on
from .checks import check_flag, check_number, check_numbers, limited
from .comb import count_comb


@dataclass(frozen=True)
class Dilated(Pattern):
    """(i - j) % dilation == 0 and 0 <= (i - j) / dilation < window: every dilation-th key back, `window` of them.

    Not causal: |i - j| / dilation <= window, so that many on either side. dilation: an int, or one for each query
    head; (1, 2, 4, 8) is the exponentially growing multi-scale form. ValueError for a dilation outside of 1 to 2**30,
    for a window below 1 (below 0 where not causal), and later for another number of heads.
    Dilated windows: Beltagy et al. 2020, "Longformer"; one dilation a head: Ding et al. 2023, "LongNet".
    """

    name: ClassVar[str] = "dilated"
    name_by_head: ClassVar[str] = "dilated_heads"

    window: int
    dilation: int | tuple[int, ...]
    causal: bool = True

    def __post_init__(self):
        check_flag("causal", self.causal)
        check_number("window", self.window, 1 if self.causal else 0)
        object.__setattr__(self, "dilation", check_numbers("dilation", self.dilation, 1, UNLIMITED, UNLIMITED))
        if self.dilation == ():
            raise ValueError("dilation: expected one for each query head, got none")

    @property
    def _by_head(self) -> bool:
        return isinstance(self.dilation, tuple)

    def encode(self, extent: Extent) -> Encoded:
        return Encoded(self.name_by_head if self._by_head else self.name, self.ints(), self.tensors(extent))

    def ints(self) -> list[int]:
        window, causal = limited(self.window), int(self.causal)
        if self._by_head:
            return [window, causal, len(self.dilation), *self.dilation]
        return [window, self.dilation, causal]

    def tensors(self, extent: Extent) -> list[Tensor]:
        """The dilations again, for kernels that serve all heads at once."""
        if not self._by_head:
            return []
        if len(self.dilation) != extent.heads:
            raise ValueError(f"dilation: expected one for each of {extent.heads} query heads, got {len(self.dilation)}")
        return [numbers_on(self.dilation, extent.device)]

    def keep(self, grid: Grid) -> Tensor:
        distance, step = grid.i - grid.j, self._steps(grid.i.device)
        reach = limited(self.window) * step
        near = (distance >= 0) & (distance < reach) if self.causal else distance.abs() <= reach
        return near & (distance % step == 0)

    def count(self, rows: Rows) -> Tensor:
        step = self._steps(rows.i.device)
        step = step[..., 0] if self._by_head else step
        window = limited(self.window)
        return count_comb(rows, step, 0 if self.causal else -window, window - 1 if self.causal else window)

    def band(self):
        if self.dilation != 1:
            return None
        return (self.window - 1, 0) if self.causal else (self.window, self.window)

    def is_causal(self) -> bool:
        return self.causal

    def _steps(self, device: torch.device) -> int | Tensor:
        """The dilation, (heads, 1, 1) where there is one for each of them."""
        if not self._by_head:
            return self.dilation
        return numbers_on(self.dilation, device).long()[:, None, None]
