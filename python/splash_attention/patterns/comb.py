"""Counting the keys at every n-th distance."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Rows


def count_comb(rows: Rows, step: int | Tensor, least: int, most: int) -> Tensor:
    """How many of each row's keys stand at i - j = n * step for a whole n with least <= n <= most.

    step: positive, a number or a tensor that broadcasts against the rows.
    """
    first = (rows.i - rows.high).div(step, rounding_mode="floor") + 1
    last = (rows.i - rows.low).div(step, rounding_mode="floor")
    return (last.clamp(max=most) - first.clamp(min=least) + 1).clamp(min=0) * (rows.high > rows.low)


def count_residues(rows: Rows, period: int, first: int) -> Tensor:
    """How many of each row's keys stand at j % period >= first."""

    def before(position: Tensor) -> Tensor:
        return position // period * (period - first) + (position % period - first).clamp(min=0)

    return torch.where(rows.high > rows.low, before(rows.high) - before(rows.low), 0)
