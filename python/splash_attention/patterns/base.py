"""What all patterns share: the base class, conjunctions, and how a pattern reaches the operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .._constants import MAX_TERMS
from .._values import tracing
from . import opaque
from .checks import four, limited
from .extent import Extent

_CHUNK = 2**22


class Encoded(NamedTuple):
    """A pattern as the operators take it: the names of its terms joined by "&", their numbers and their tensors."""

    pattern: str
    ints: list[int]
    tensors: list[Tensor]


class Grid(NamedTuple):
    """Index tensors of a rectangle of scores: `row`, `i` (n, 1) and `column`, `j` (1, m).

    end: the position after the last key of the whole problem. heads: query heads that may differ.
    """

    row: Tensor
    column: Tensor
    i: Tensor
    j: Tensor
    end: int
    heads: int = 1


class Rows(NamedTuple):
    """The keys among which every row counts what it keeps: index tensors of (n,) rows.

    low, high: the positions [low, high) of those keys, low <= high. k_start: the position of column 0. end, heads: as
    in Grid.
    """

    row: Tensor
    i: Tensor
    low: Tensor
    high: Tensor
    k_start: int
    end: int
    heads: int = 1

    def count(self, begin: Tensor | int, end: Tensor | int) -> Tensor:
        """How many of the keys lie at positions [begin, end)."""
        return (torch.minimum(self.high, self._like(end)) - torch.maximum(self.low, self._like(begin))).clamp(min=0)

    def within(self, left: int | None, right: int | None) -> Rows:
        """The same rows, with the keys i - left <= j <= i + right only."""
        low = self.low if left is None else torch.minimum(torch.maximum(self.low, self.i - limited(left)), self.high)
        high = self.high if right is None else torch.minimum(self.high, self.i + limited(right) + 1)
        return self._replace(low=low, high=torch.maximum(low, high))

    def _like(self, bound: Tensor | int) -> Tensor:
        return bound if isinstance(bound, Tensor) else torch.full_like(self.low, bound)


class Pattern:
    """Base of all patterns.

    A new pattern is a frozen dataclass with its `name` in kernels/instances.json, `keep`, and its numbers in `ints`;
    only patterns that hold tensors need the rest. `count` makes density() fast, `band` and `is_causal` say more.
    `by_place`: its tensors depend on where the queries stand, or on lengths, and not on sizes and k_start alone.
    `tensors_by_batch`: the first dimension of its tensors is the batch, so that vmap folds into it.
    """

    name: ClassVar[str]
    by_place: ClassVar[bool] = False
    tensors_by_batch: ClassVar[bool] = False
    is_constant: ClassVar[bool] = False
    """Whether name and ints() are all that it is to the operators, whatever the problem. Set for every class."""

    def __init_subclass__(cls):
        if "name" in vars(cls):
            opaque.KINDS[cls.name] = cls
        cls.is_constant = cls.tensors is Pattern.tensors and cls.encode is Pattern.encode

    def ints(self) -> list[int]:
        """Its numbers, in the order that C++ reads them."""
        return []

    def tensors(self, extent: Extent) -> list[Tensor]:
        """Its tensors, checked against the problem."""
        return []

    def tensors_in_graphs(self, extent: Extent) -> Sequence[Tensor]:
        """tensors() by one operator of the library, where they take many operations of Torch's."""
        return self.tensors(extent)

    def fit(self, extent: Extent) -> None:
        """Raises ValueError where what the pattern holds does not fit the problem. Part of tensors()."""

    def keep(self, grid: Grid) -> Tensor:
        """bool, broadcastable to (B, H, n, m): which scores of the grid are kept."""
        raise NotImplementedError

    def band(self) -> tuple[int | None, int | None] | None:
        """(left, right) where exactly i - left <= j <= i + right is kept (None: unlimited), None for other patterns."""
        return None

    def count(self, rows: Rows) -> Tensor | None:
        """int64 (..., n): how many of its keys each row keeps. None where only keep() can say."""
        band = self.band()
        if band is None:
            return None
        within = rows.within(*band)
        return within.high - within.low

    def check(self, Nq: int, Nk: int) -> None:
        """Raises ValueError where the pattern does not fit Nq rows and Nk columns."""

    def is_causal(self) -> bool:
        """True where no key after the query is kept, at any position."""
        band = self.band()
        return band is not None and band[1] == 0

    def encode(self, extent: Extent) -> Encoded:
        """What the operators take. ValueError where the pattern does not fit the problem."""
        return Encoded(self.name, self.ints(), opaque.tensors_of(self, extent))

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

        device: of the mask, Torch's default device where it is None. Raises ValueError where the pattern does not fit
        these sizes.
        """
        self.check(Nq, Nk)
        q_start = k_start + Nk - Nq if q_start is None else q_start
        kept = self.keep(_grid(0, Nq, Nk, q_start, k_start, heads, device))
        kept = four(kept.expand(*kept.shape[:-2], Nq, Nk))
        for name, size, given in (("batch", kept.shape[0], batch), ("heads", kept.shape[1], heads)):
            if given != 1 and size not in (1, given):
                raise ValueError(f"{name}: the pattern has {size} of them, {given} were asked for")
        return kept

    def density(self, Nq: int, Nk: int, q_start: int | None = None, k_start: int = 0, heads: int = 1) -> float:
        """The share of the Nq * Nk scores that is kept, over batches and heads; 0 where there are none.

        heads: query heads, for patterns that draw each head's keys anew.
        """
        self.check(Nq, Nk)
        if Nq == 0 or Nk == 0:
            return 0.0
        q_start = k_start + Nk - Nq if q_start is None else q_start
        row = torch.arange(Nq, device="cpu")
        low = torch.full_like(row, k_start)
        counts = self.count(Rows(row, row + q_start, low, low + Nk, k_start, k_start + Nk, heads))
        if counts is not None:
            return counts.sum().item() / (max(1, counts[..., 0].numel()) * Nq * Nk)
        total = 0.0
        step = max(1, _CHUNK // Nk)
        for begin in range(0, Nq, step):
            end = min(begin + step, Nq)
            kept = self.keep(_grid(begin, end, Nk, q_start, k_start, heads, "cpu"))
            kept = kept.expand(*kept.shape[:-2], end - begin, Nk)
            total += kept.sum().item() / max(1, kept[..., 0, 0].numel())
        return total / (Nq * Nk)

    def __and__(self, other: Pattern) -> And:
        if isinstance(other, Tensor):
            raise TypeError("pattern & tensor: expected two patterns; ElementMask(mask) is that of a bool mask")
        if not isinstance(other, Pattern):
            return NotImplemented
        return And((*_terms(self), *_terms(other)))

    def __or__(self, other: Pattern):
        if not isinstance(other, Pattern):
            return NotImplemented
        raise TypeError(
            "a | b: unions of patterns do not exist yet; ElementMask(a.to_dense(Nq, Nk) | b.to_dense(Nq, Nk)) keeps "
            "what either of them keeps"
        )


@dataclass(frozen=True)
class And(Pattern):
    """What all of its terms keep; made by `a & b`. ValueError for more than four terms."""

    terms: tuple[Pattern, ...]

    @property
    def by_place(self) -> bool:
        return any(term.by_place for term in self.terms)

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
        return reduce(torch.logical_and, (four(term.keep(grid)) for term in self.terms))

    def count(self, rows):
        others = []
        for term in self.terms:
            band = term.band()
            if band is None:
                others.append(term)
            else:
                rows = rows.within(*band)
        if not others:
            return rows.high - rows.low
        return others[0].count(rows) if len(others) == 1 else None

    def is_causal(self):
        return any(term.is_causal() for term in self.terms)

    def encode(self, extent):
        parts = [term.encode(extent) for term in self.terms]
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
    extent: Extent

    def __post_init__(self):
        # The problems that it was made for, to be told from others by one comparison; lengths are no part of it.
        sizes = self.extent._replace(lengths=None, kv_lengths=None)
        object.__setattr__(self, "_fitting", {sizes, sizes._replace(backward=False)})
        versions = tuple(map(_version, (self.extent.lengths, self.extent.kv_lengths)))
        object.__setattr__(self, "_versions", versions)

    def __repr__(self) -> str:
        return f"prepare({self.pattern!r}, (B, Hq, Nq, Nk)={_sizes(self.extent)}, device={self.extent.device})"

    def band(self):
        return self.pattern.band()

    def count(self, rows):
        return self.pattern.count(rows)

    def is_causal(self):
        return self.pattern.is_causal()

    def check(self, Nq, Nk):
        self.pattern.check(Nq, Nk)

    def keep(self, grid):
        return self.pattern.keep(grid)

    @property
    def by_place(self) -> bool:
        return self.pattern.by_place

    def encode(self, extent):
        same_lengths = extent.lengths is self.extent.lengths and extent.kv_lengths is self.extent.kv_lengths
        if same_lengths and not tracing() and self._fits(extent):
            return self.encoded
        if extent.backward and not self.extent.backward:
            raise ValueError("pattern: prepared with backward=False, but an input requires a gradient")
        if _sizes(extent) != _sizes(self.extent) or extent.device != self.extent.device:
            raise ValueError(
                f"pattern: prepared for (B, Hq, Nq, Nk) = {_sizes(self.extent)} on {self.extent.device}, "
                f"used with {_sizes(extent)} on {extent.device}"
            )
        if extent.packed or extent.k_start != self.extent.k_start:
            raise ValueError(
                f"pattern: prepared for k_start {self.extent.k_start} without packed sequences, used with "
                f"{'packed sequences' if extent.packed else f'k_start {extent.k_start}'}"
            )
        plain = not (extent.own_lengths or self.extent.own_lengths)
        if self.by_place and not (plain and extent.first_query == self.extent.first_query):
            return self.pattern.encode(extent)
        return self.encoded

    def _fits(self, extent: Extent) -> bool:
        """Whether the sizes are those that it was made for, and what the lengths hold has not changed since."""
        if not extent.own_lengths:
            return extent in self._fitting
        if extent.packed or extent._replace(lengths=None, kv_lengths=None) not in self._fitting:
            return False
        versions = tuple(map(_version, (extent.lengths, extent.kv_lengths)))
        return versions == self._versions and _NEVER not in versions


_NEVER = -1


def _version(lengths: Tensor | None) -> int | None:
    """It differs after a change in place; _NEVER where Torch counts none."""
    return None if lengths is None else _NEVER if lengths.is_inference() else lengths._version


def _sizes(extent: Extent) -> tuple[int, int, int, int]:
    return extent.batch, extent.heads, extent.queries, extent.keys


def _terms(pattern: Pattern) -> tuple[Pattern, ...]:
    return pattern.terms if isinstance(pattern, And) else (pattern,)


def _grid(begin: int, end: int, Nk: int, q_start: int, k_start: int, heads: int, device) -> Grid:
    row = torch.arange(begin, end, device=device)[:, None]
    column = torch.arange(Nk, device=device)[None, :]
    return Grid(row, column, row + q_start, column + k_start, k_start + Nk, heads)
