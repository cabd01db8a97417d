"""Index formulas of the patterns, as dense masks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..patterns import And, BlockMask, Causal, Full, Pattern, Prepared, SlidingWindow


def dense_mask(pattern: Pattern, i: Tensor, j: Tensor) -> Tensor:
    """bool, broadcastable to (B, H, Nq, Nk), for query positions i (B or 1, 1, Nq, 1) and key positions j (Nk).

    TypeError for a pattern whose formula is not written here.
    """
    if isinstance(pattern, Prepared):
        return dense_mask(pattern.pattern, i, j)
    if isinstance(pattern, And):
        kept = torch.ones_like(i - j, dtype=torch.bool)
        for term in pattern.terms:
            kept = kept & dense_mask(term, i, j)
        return kept
    distance = i - j
    if isinstance(pattern, Full):
        return torch.ones_like(distance, dtype=torch.bool)
    if isinstance(pattern, Causal):
        return distance >= 0
    if isinstance(pattern, SlidingWindow):
        left = torch.inf if pattern.left is None else pattern.left
        right = torch.inf if pattern.right is None else pattern.right
        return (distance <= left) & (-distance <= right)
    if isinstance(pattern, BlockMask):
        Nq, Nk = distance.shape[-2:]
        rows, columns = pattern.block
        mask = pattern.mask.expand(*pattern.mask.shape[:-2], -(-Nq // rows), -(-Nk // columns))
        return mask.repeat_interleave(rows, -2)[..., :Nq, :].repeat_interleave(columns, -1)[..., :Nk]
    raise TypeError(f"reference: no formula for {type(pattern).__name__}")
