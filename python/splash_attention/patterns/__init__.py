"""WHICH scores exist: one frozen dataclass a pattern.

Query i = row + q_start and key j = column + k_start are positions in the whole sequence; the defaults are k_start = 0
and q_start = k_start + Nk - Nq (the last query meets the last key; with Nq > Nk the first ones stand before every key).
`//` and `%` round towards minus infinity.
"""

from __future__ import annotations

from torch import Tensor

from .band import Causal, Full, SlidingWindow
from .base import And, Encoded, Extent, Pattern, Prepared
from .big_bird import BigBird
from .block_diagonal import BlockDiagonal
from .block_mask import BlockMask
from .dilated import Dilated
from .element_mask import ElementMask
from .fixed import Fixed
from .index_causal import IndexCausal
from .longformer import Longformer
from .streaming import Streaming
from .strided import Strided
from .top_k_blocks import top_k_blocks

__all__ = [
    "And",
    "BigBird",
    "BlockDiagonal",
    "BlockMask",
    "Causal",
    "Dilated",
    "ElementMask",
    "Encoded",
    "Extent",
    "Fixed",
    "Full",
    "IndexCausal",
    "Longformer",
    "Pattern",
    "Prepared",
    "SlidingWindow",
    "Streaming",
    "Strided",
    "as_pattern",
    "top_k_blocks",
]

_SHORT = {"full": Full, "causal": Causal}


def as_pattern(short: Pattern | str) -> Pattern:
    """A pattern from its short form, "full" or "causal"."""
    if isinstance(short, Pattern):
        return short
    if isinstance(short, str):
        if short in _SHORT:
            return _SHORT[short]()
        raise ValueError(f'pattern: expected "full", "causal" or a pattern, got {short!r}')
    hint = ""
    if isinstance(short, Tensor):
        hint = "; ElementMask(mask) is the pattern of a bool mask, and masks that are added do not exist yet"
    elif isinstance(short, bool):
        hint = '; "causal" is the causal pattern'
    elif isinstance(short, int):
        hint = "; SlidingWindow.causal(w) is a window"
    elif isinstance(short, type) and issubclass(short, Pattern):
        hint = f"; {short.__name__}(...) makes one"
    raise TypeError(f"pattern: expected a pattern or a string, got {type(short).__name__}{hint}")
