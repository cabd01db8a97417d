"""The numbers that Python shares with the kernels, as libsplash gives them."""

from __future__ import annotations

from . import _library

_given = _library.constants()

MAX_POSITION: int = _given["max_position"]
"""The largest position, in magnitude."""

POSITIONS: int = MAX_POSITION + 1
"""Lengths and numbers of tokens end here."""

UNLIMITED: int = _given["unlimited"]
"""A distance that no two positions reach."""

MAX_TERMS: int = _given["max_terms"]
"""Patterns of one conjunction."""

MAX_RANK: int = _given["max_rank"]
"""Dimensions of a tensor."""

ELEMENT_TILE: int = _given["element_tile"]
"""Rows and columns of the tiles of an element mask."""

INDEX_GROUP: int = _given["index_group"]
"""Indices of IndexCausal whose extremes are kept."""

MAX_CUDA_HEAD_DIM: int = _given["cuda_head_dim"]
"""The largest one that this build has CUDA kernels for; 0 where it has none."""

SAVED: dict[str, dict[str, int]] = _given["saved"]
"""By the operators' name of a normalizer, on "cpu" and on "cuda": numbers a row that the forward keeps beside the
public statistic."""


def saved_numbers(normalizer: str, device_type: str) -> int:
    """How many of them; a device that is neither keeps as many as the CPU."""
    return SAVED[normalizer]["cuda" if device_type == "cuda" else "cpu"]
