"""WHICH scores exist: one frozen dataclass a pattern.

Query i = row + q_start and key j = column + k_start are positions in the whole sequence; the defaults are k_start = 0
and q_start = k_start + Nk - Nq (the last query meets the last key).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

UNLIMITED = 2**30
MAX_TERMS = 4
_CHUNK = 2**22


class Encoded(NamedTuple):
    """A pattern as the operators take it: the names of its terms joined by "&", their numbers and their tensors."""

    pattern: str
    ints: list[int]
    tensors: list[Tensor]


class Grid(NamedTuple):
    """Index tensors of a rectangle of scores: `row`, `i` (n, 1) and `column`, `j` (1, m)."""

    row: Tensor
    column: Tensor
    i: Tensor
    j: Tensor


class Pattern:
    """Base of all patterns.

    A new pattern is a frozen dataclass with its `name` in kernels/instances.json, `keep`, and its numbers in `ints`;
    only patterns that hold tensors need the rest.
    """

    name: ClassVar[str]

    def ints(self) -> list[int]:
        """Its numbers, in the order that C++ reads them."""
        return []

    def tensors(self, batch: int, heads: int, Nq: int, Nk: int, device: torch.device, backward: bool) -> list[Tensor]:
        """Its tensors, checked against the problem. `backward`: also those that only the backward reads."""
        return []

    def keep(self, grid: Grid) -> Tensor:
        """bool, broadcastable to (B, H, n, m): which scores of the grid are kept."""
        raise NotImplementedError

    def band(self) -> tuple[int | None, int | None] | None:
        """(left, right) where exactly i - left <= j <= i + right is kept (None: unlimited), None for other patterns."""
        return None

    def check(self, Nq: int, Nk: int) -> None:
        """Raises ValueError where the pattern does not fit Nq rows and Nk columns."""

    def encode(self, batch: int, heads: int, Nq: int, Nk: int, device: torch.device, backward: bool = True) -> Encoded:
        return Encoded(self.name, self.ints(), self.tensors(batch, heads, Nq, Nk, device, backward))

    def to_dense(
        self,
        Nq: int,
        Nk: int,
        heads: int = 1,
        batch: int = 1,
        q_start: int | None = None,
        k_start: int = 0,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """bool mask (B or 1, H or 1, Nq, Nk), True where a score is kept.

        Raises ValueError where the pattern does not fit these sizes.
        """
        self.check(Nq, Nk)
        kept = self.keep(_grid(0, Nq, Nk, k_start + Nk - Nq if q_start is None else q_start, k_start, device))
        kept = _four(kept.expand(*kept.shape[:-2], Nq, Nk))
        for name, size, given in (("batch", kept.shape[0], batch), ("heads", kept.shape[1], heads)):
            if given != 1 and size not in (1, given):
                raise ValueError(f"{name}: the pattern has {size} of them, {given} were asked for")
        return kept

    def density(self, Nq: int, Nk: int, q_start: int | None = None, k_start: int = 0) -> float:
        """The share of the Nq * Nk scores that is kept, over batches and heads; 0 where there are none."""
        self.check(Nq, Nk)
        if Nq == 0 or Nk == 0:
            return 0.0
        q_start = k_start + Nk - Nq if q_start is None else q_start
        band = self.band()
        if band is not None:
            return _count_band(*band, Nq, Nk, q_start, k_start) / (Nq * Nk)
        total = 0.0
        step = max(1, _CHUNK // Nk)
        for begin in range(0, Nq, step):
            end = min(begin + step, Nq)
            kept = self.keep(_grid(begin, end, Nk, q_start, k_start, None))
            kept = kept.expand(*kept.shape[:-2], end - begin, Nk)
            total += kept.sum().item() / max(1, kept[..., 0, 0].numel())
        return total / (Nq * Nk)

    def __and__(self, other: Pattern) -> And:
        if not isinstance(other, Pattern):
            return NotImplemented
        return And((*_terms(self), *_terms(other)))


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
    """i - left <= j <= i + right, both inclusive; None is unlimited. ValueError for a negative side."""

    name: ClassVar[str] = "sliding_window"

    left: int | None
    right: int | None

    def __post_init__(self):
        _check_number("left", self.left, 0, optional=True)
        _check_number("right", self.right, 0, optional=True)

    @classmethod
    def causal(cls, window: int) -> SlidingWindow:
        """The last `window` keys, the query's own included."""
        _check_number("window", window, 1)
        return cls(window - 1, 0)

    @classmethod
    def symmetric(cls, window: int) -> SlidingWindow:
        """|i - j| <= window."""
        _check_number("window", window, 0)
        return cls(window, window)

    def ints(self) -> list[int]:
        return [-1 if side is None else min(side, UNLIMITED) for side in (self.left, self.right)]

    def keep(self, grid: Grid) -> Tensor:
        kept = Full().keep(grid)
        if self.left is not None:
            kept = kept & (grid.j >= grid.i - self.left)
        if self.right is not None:
            kept = kept & (grid.j <= grid.i + self.right)
        return kept

    def band(self):
        return self.left, self.right


@dataclass(frozen=True, eq=False)
class BlockMask(Pattern):
    """mask[b, h, row // bm, column // bn], in rows and columns of the tensors at hand, not in positions.

    mask: bool, broadcastable to (B, Hq, ceil(Nq / bm), ceil(Nk / bn)), on the inputs' device. block: b or (bm, bn),
    multiples of 16. TypeError for another dtype, ValueError for other shapes and sizes. Compares by identity.
    """

    name: ClassVar[str] = "block_mask"

    mask: Tensor
    block: int | tuple[int, int]

    def __post_init__(self):
        if not isinstance(self.mask, Tensor):
            raise TypeError(f"mask: expected a bool tensor, got {type(self.mask).__name__}")
        if self.mask.dtype is not torch.bool:
            raise TypeError(f"mask: expected dtype torch.bool, got {self.mask.dtype}")
        if not 2 <= self.mask.dim() <= 4:
            raise ValueError(
                f"mask: expected 2 to 4 dimensions, (batch, heads, rows, columns), got {_shape(self.mask)}"
            )
        block = tuple(self.block) if isinstance(self.block, (tuple, list)) else (self.block, self.block)
        if len(block) != 2 or any(isinstance(b, bool) or not isinstance(b, int) or b < 16 or b % 16 for b in block):
            raise ValueError(f"block: expected a multiple of 16 or a pair of them, got {self.block}")
        object.__setattr__(self, "block", block)

    def __repr__(self) -> str:
        return f"BlockMask(mask=<bool {_shape(self.mask)}>, block={self.block})"

    def ints(self) -> list[int]:
        return list(self.block)

    def blocks(self, Nq: int, Nk: int) -> tuple[int, int]:
        """Block rows and block columns of Nq rows and Nk columns."""
        rows, columns = self.block
        return (Nq + rows - 1) // rows, (Nk + columns - 1) // columns

    def check(self, Nq: int, Nk: int) -> None:
        # A text with the sizes in it, made before it is needed, would tie torch.compile to these sizes.
        _check_broadcast("mask", self.mask.shape[-2:], self.blocks(Nq, Nk), "(block rows, block columns)")

    def tensors(self, batch, heads, Nq, Nk, device, backward):
        self.check(Nq, Nk)
        if self.mask.device != device:
            raise ValueError(f"mask: expected the inputs' device {device}, got {self.mask.device}")
        mask = _four(self.mask)
        _check_broadcast("mask", mask.shape[:2], (batch, heads), "(batch, heads)")
        mask = mask.expand(-1, -1, *self.blocks(Nq, Nk))
        by_row = pack_bits(mask)
        if backward:
            return [by_row, pack_bits(mask.transpose(2, 3))]
        # The forward does not read the transpose, and "every row may see it" is a right answer for every column.
        rows, columns = mask.shape[2:]
        return [by_row, by_row.new_full((1, 1, columns, _words(rows)), -1)]

    def keep(self, grid: Grid) -> Tensor:
        lines = [
            index.flatten() // size if extent > 1 else torch.zeros_like(index.flatten())
            for index, size, extent in zip((grid.row, grid.column), self.block, self.mask.shape[-2:], strict=True)
        ]
        rows, columns = (line.to(self.mask.device) for line in lines)
        return self.mask.index_select(-2, rows).index_select(-1, columns).to(grid.row.device)


@dataclass(frozen=True)
class And(Pattern):
    """What all of its terms keep; made by `a & b`. ValueError for more than four terms."""

    terms: tuple[Pattern, ...]

    def __post_init__(self):
        object.__setattr__(self, "terms", tuple(self.terms))
        if not 1 <= len(self.terms) <= MAX_TERMS:
            raise ValueError(f"pattern: a conjunction has 1 to {MAX_TERMS} terms, got {len(self.terms)}")

    def __repr__(self) -> str:
        return " & ".join(repr(term) for term in self.terms)

    def band(self):
        bands = [term.band() for term in self.terms]
        if None in bands:
            return None
        return tuple(min((band[side] for band in bands if band[side] is not None), default=None) for side in (0, 1))

    def check(self, Nq, Nk):
        for term in self.terms:
            term.check(Nq, Nk)

    def keep(self, grid):
        return reduce(torch.logical_and, (_four(term.keep(grid)) for term in self.terms))

    def encode(self, batch, heads, Nq, Nk, device, backward=True):
        parts = [term.encode(batch, heads, Nq, Nk, device, backward) for term in self.terms]
        return Encoded(
            "&".join(part.pattern for part in parts),
            [number for part in parts for number in part.ints],
            [tensor for part in parts for tensor in part.tensors],
        )


@dataclass(frozen=True, eq=False)
class Prepared(Pattern):
    """A pattern with its metadata already built, by prepare(); compares by identity."""

    pattern: Pattern
    encoded: Encoded
    shape: tuple[int, int, int, int]
    device: torch.device
    backward: bool

    def __repr__(self) -> str:
        return f"prepare({self.pattern!r}, (B, Hq, Nq, Nk)={self.shape}, device={self.device})"

    def band(self):
        return self.pattern.band()

    def check(self, Nq, Nk):
        self.pattern.check(Nq, Nk)

    def keep(self, grid):
        return self.pattern.keep(grid)

    def encode(self, batch, heads, Nq, Nk, device, backward=True):
        if backward and not self.backward:
            raise ValueError("pattern: prepared with backward=False, but an input requires a gradient")
        if (batch, heads, Nq, Nk) != self.shape or device != self.device:
            raise ValueError(
                f"pattern: prepared for (B, Hq, Nq, Nk) = {self.shape} on {self.device}, "
                f"used with {(batch, heads, Nq, Nk)} on {device}"
            )
        return self.encoded


_SHORT = {"full": Full, "causal": Causal}


def as_pattern(short: Pattern | str) -> Pattern:
    """A pattern from its short form, "full" or "causal"."""
    if isinstance(short, Pattern):
        return short
    if isinstance(short, str):
        if short in _SHORT:
            return _SHORT[short]()
        raise ValueError(f'pattern: expected "full", "causal" or a pattern, got {short!r}')
    raise TypeError(f"pattern: expected a pattern or a string, got {type(short).__name__}")


def pack_bits(mask: Tensor) -> Tensor:
    """(..., n) bool to (..., ceil(n / 32)) int32: bit w of word x is mask[..., 32 x + w], bits past n are 0."""
    length = mask.shape[-1]
    words = _words(length)
    bits = torch.nn.functional.pad(mask.to(torch.int32), (0, words * 32 - length)).unflatten(-1, (words, 32))
    shifts = torch.arange(32, dtype=torch.int32, device=mask.device)
    return (bits << shifts).sum(-1, dtype=torch.int32)


def _words(bits: int) -> int:
    return (bits + 31) // 32


def _grid(begin: int, end: int, Nk: int, q_start: int, k_start: int, device) -> Grid:
    row = torch.arange(begin, end, device=device)[:, None]
    column = torch.arange(Nk, device=device)[None, :]
    return Grid(row, column, row + q_start, column + k_start)


def _count_band(left: int | None, right: int | None, Nq: int, Nk: int, q_start: int, k_start: int) -> int:
    """Kept scores of a band, row by row: the columns from max(0, i - left) to min(Nk - 1, i + right)."""
    diagonal = torch.arange(Nq) + (q_start - k_start)
    first = torch.zeros_like(diagonal) if left is None else (diagonal - left).clamp(0, Nk)
    end = torch.full_like(diagonal, Nk) if right is None else (diagonal + right + 1).clamp(0, Nk)
    return int((end - first).clamp(min=0).sum())


def _terms(pattern: Pattern) -> tuple[Pattern, ...]:
    return pattern.terms if isinstance(pattern, And) else (pattern,)


def _four(kept: Tensor) -> Tensor:
    return kept[(None,) * (4 - kept.dim())]


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _check_number(name: str, value: int | None, low: int, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int{' or None' if optional else ''}, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name}: expected at least {low}, got {value}")


def _check_broadcast(name: str, sizes, target, what: str) -> None:
    for size, wanted in zip(sizes, target, strict=True):
        if size != 1 and size != wanted:
            raise ValueError(f"{name}: {tuple(sizes)} does not broadcast to {tuple(target)}, {what}")
