"""Windows with global tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._constants import MAX_POSITION, UNLIMITED
from .base import Encoded, Extent, Grid, Pattern, Rows
from .cache import cached
from .checks import check_flag, check_number, check_numbers, limited
from .comb import count_comb

_FAR = 2**31  # apart from each other by more than any two positions
_MANY_BITS = 2**15


@dataclass(frozen=True)
class Longformer(Pattern):
    """A (dilated) symmetric window of `window` keys on either side, and global tokens: what they see and who sees them.

    Kept where (i - j) % dilation == 0 and |i - j| / dilation <= window, or j is global, or i is global; `causal` adds
    j <= i. global_tokens: n for the positions 0 to n - 1, or a tuple of positions from 0 on (as a set). ValueError for
    negative numbers and for a dilation outside of 1 to 2**30. Beltagy et al. 2020, "Longformer".
    """

    name: ClassVar[str] = "longformer"
    name_by_token: ClassVar[str] = "longformer_tokens"

    window: int
    global_tokens: int | tuple[int, ...]
    dilation: int = 1
    causal: bool = False

    def __post_init__(self):
        check_number("window", self.window, 0)
        check_number("dilation", self.dilation, 1, UNLIMITED)
        check_flag("causal", self.causal)
        tokens = check_numbers("global_tokens", self.global_tokens, 0, MAX_POSITION, None)
        object.__setattr__(self, "global_tokens", tokens)

    @property
    def by_place(self) -> bool:
        return self._by_token

    @property
    def _by_token(self) -> bool:
        return isinstance(self.global_tokens, tuple)

    def encode(self, extent: Extent) -> Encoded:
        return Encoded(self.name_by_token if self._by_token else self.name, self.ints(), self.tensors(extent))

    def ints(self) -> list[int]:
        prefix = [] if self._by_token else [limited(self.global_tokens)]
        return [limited(self.window), *prefix, self.dilation, int(self.causal)]

    def tensors(self, extent: Extent) -> list[Tensor]:
        if not self._by_token:
            return []
        bits = max(self.global_tokens, default=0) + 1
        if bits > _MANY_BITS:  # a graph need not know how long a problem is for less
            end = max(extent.k_start + extent.keys, extent.first_query + extent.queries, 1)
            bits = min(bits, end)
        words = (bits + 31) // 32
        key = self.name_by_token, self.global_tokens, words, extent.device
        return cached(key, lambda: [self._words(words).to(extent.device)])

    def keep(self, grid: Grid) -> Tensor:
        distance = grid.i - grid.j
        near = (distance % self.dilation == 0) & (distance.abs() <= limited(self.window) * self.dilation)
        kept = near | self._is_global(grid.j) | self._is_global(grid.i)
        return kept & (distance >= 0) if self.causal else kept

    def count(self, rows: Rows) -> Tensor:
        if self.causal:
            rows = rows.within(None, 0)
        window, reach = limited(self.window), limited(self.window * self.dilation)
        # Keys of the window, and the global ones beside them: all global ones but those that the window has already.
        near = rows.within(reach, reach)
        kept = count_comb(near, self.dilation, -window, window) + self._count_global(rows)
        kept = kept - self._count_global(near, self.dilation)
        return torch.where(self._is_global(rows.i), rows.high - rows.low, kept)

    def band(self):
        if self.dilation != 1 or self.global_tokens not in (0, ()):
            return None
        return self.window, 0 if self.causal else self.window

    def is_causal(self) -> bool:
        return self.causal

    def _words(self, count: int) -> Tensor:
        """Bit w of word n is position 32 n + w."""
        tokens = [token for token in set(self.global_tokens) if token < 32 * count]
        token = torch.tensor(tokens, dtype=torch.long, device="cpu")
        bits = torch.bitwise_left_shift(1, token % 32).to(torch.int32)
        return torch.zeros(count, dtype=torch.int32, device="cpu").index_add(0, token // 32, bits)

    def _is_global(self, position: Tensor) -> Tensor:
        if not self._by_token:
            return (position >= 0) & (position < limited(self.global_tokens))
        return torch.isin(position, self._tokens(position.device))

    def _tokens(self, device: torch.device) -> Tensor:
        return torch.tensor(sorted(set(self.global_tokens)), dtype=torch.long, device=device)

    def _count_global(self, rows: Rows, step: int = 1) -> Tensor:
        """How many of each row's keys are global and stand at a distance that is a multiple of `step`."""
        if not self._by_token:
            begin = rows.low.clamp(min=0)
            end = rows.high.clamp(max=limited(self.global_tokens))
            inside = rows._replace(low=begin, high=torch.maximum(begin, end))
            return count_comb(inside, step, -UNLIMITED, UNLIMITED)
        # Tokens in the order of their residues, and of their positions within one residue: two look-ups a row.
        token = self._tokens(rows.i.device)
        ordered = (token % step * _FAR + token).sort().values
        residue = rows.i % step * _FAR
        low, high = (torch.searchsorted(ordered, residue + bound.clamp(min=0)) for bound in (rows.low, rows.high))
        return high - low
