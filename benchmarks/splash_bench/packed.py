"""Sequences of uneven length, packed one after the other, as a problem."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from splash_attention.patterns import ElementMask, Pattern
from splash_attention.patterns.base import Grid


class Packed(Pattern):
    """Every token sees its own sequence; with `causal` no later tokens of it.

    ends: where the sequences end, rising from 0 to the number of tokens. As a mask it serves the peers and the check;
    splash takes the ends themselves.
    """

    name = "packed"

    def __init__(self, ends: tuple[int, ...], causal: bool):
        self.ends, self.causal = ends, causal

    @classmethod
    def drawn(cls, sequences: int, tokens: int, seed: int, causal: bool) -> Packed:
        """Cut at random places, the same on every device. ValueError for more sequences than tokens."""
        if sequences > tokens:
            raise ValueError(f"sequences: expected at most the {tokens} positions, got {sequences}")
        places = torch.randperm(tokens - 1, generator=torch.Generator().manual_seed(seed))[: sequences - 1]
        return cls((0, *(places.sort().values + 1).tolist(), tokens), causal)

    def __repr__(self) -> str:
        return f"Packed({len(self.lengths)} sequences, causal={self.causal})"

    @property
    def lengths(self) -> list[int]:
        return [end - begin for begin, end in pairwise(self.ends)]

    def is_causal(self):
        return self.causal

    def keep(self, grid):
        ends = self.ends_on(grid.i.device)
        same = self._sequence(ends, grid.i) == self._sequence(ends, grid.j)
        return same & (grid.j <= grid.i) if self.causal else same

    def rows(self, begin: int, end: int, device: torch.device) -> ElementMask:
        """What the tokens [begin, end) keep."""
        i = torch.arange(begin, end, device=device)[:, None]
        j = torch.arange(self.ends[-1], device=device)[None]
        return ElementMask(self.keep(Grid(i, j, i, j, self.ends[-1])))

    def count(self, rows):
        ends = self.ends_on(rows.i.device).long()
        sequence = self._sequence(ends, rows.i)
        return rows.count(ends[sequence], rows.i + 1 if self.causal else ends[sequence + 1])

    def ends_on(self, device: torch.device) -> Tensor:
        """(sequences + 1,) int32."""
        return torch.tensor(self.ends, dtype=torch.int32, device=device)

    def _sequence(self, ends: Tensor, position: Tensor) -> Tensor:
        return torch.searchsorted(ends, position.to(ends.dtype).contiguous(), right=True) - 1
