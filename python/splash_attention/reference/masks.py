"""Index formulas of the patterns, as dense masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import patterns
from ..patterns import And, BigBird, Pattern, Prepared
from .big_bird import big_bird_blocks


def dense_mask(pattern: Pattern, i: Tensor, j: Tensor, heads: int = 1, ends: Tensor | None = None) -> Tensor:
    """bool, broadcastable to (B, H, Nq, Nk), for query positions i (B or 1, 1, Nq, 1) and key positions j (Nk).

    heads: query heads, for patterns that draw anew for each. ends: (B,) the position after the last key of each batch
    entry, by default the one after j. TypeError for a pattern whose formula is not written here.
    """
    if isinstance(pattern, Prepared):
        return dense_mask(pattern.pattern, i, j, heads, ends)
    if isinstance(pattern, And):
        kept = torch.ones_like(i - j, dtype=torch.bool)
        for term in pattern.terms:
            kept = kept & dense_mask(term, i, j, heads, ends)
        return kept
    if type(pattern) is BigBird:
        if pattern.length is not None or ends is None:
            lengths = [pattern.length if pattern.length is not None else int(j[-1]) + 1 if len(j) else 0] * len(i)
        else:
            lengths = ends.tolist()
        rows = zip(i.expand(len(lengths), -1, -1, -1), lengths, strict=True)
        return torch.cat([_big_bird(pattern, row[None], j, heads, length) for row, length in rows])
    if type(pattern) not in _FORMULAS:
        raise TypeError(f"reference: no formula for {type(pattern).__name__}")
    return _FORMULAS[type(pattern)](pattern, i, j, heads)


def _full(pattern, i, j, heads):
    return torch.ones_like(i - j, dtype=torch.bool)


def _causal(pattern, i, j, heads):
    return i - j >= 0


def _number(n: int) -> int:
    """As one that 64 bits hold; positions and their distances are far smaller."""
    return min(n, 2**60)


def _sliding_window(pattern, i, j, heads):
    left = math.inf if pattern.left is None else _number(pattern.left)
    right = math.inf if pattern.right is None else _number(pattern.right)
    return (i - j <= left) & (j - i <= right)


def _streaming(pattern, i, j, heads):
    return (i >= j) & ((_number(pattern.sink) > j) | (i < j + _number(pattern.window)))


def _block_diagonal(pattern, i, j, heads):
    begin = i - torch.remainder(i, pattern.block)
    inside = (begin <= j) & (j < begin + pattern.block)
    return inside & (i >= j) if pattern.causal else inside


def _dilated(pattern, i, j, heads):
    dilations = [pattern.dilation] if isinstance(pattern.dilation, int) else pattern.dilation
    masks = [_dilated_window(i - j, pattern.window, dilation, pattern.causal) for dilation in dilations]
    return torch.cat(masks, dim=1)


def _dilated_window(distance, window, dilation, causal):
    # In whole numbers: on CUDA, Torch divides by multiplying with a rounded reciprocal, and 49 / 49 is not 1.
    steps = torch.div(distance, dilation, rounding_mode="floor")
    on_step = torch.remainder(distance, dilation) == 0
    if causal:
        return on_step & (steps >= 0) & (steps < _number(window))
    return on_step & (steps.abs() <= _number(window))


def _strided(pattern, i, j, heads):
    distance = i - j
    return (distance >= 0) & ((distance < _number(pattern.local)) | (torch.remainder(distance, pattern.stride) == 0))


def _fixed(pattern, i, j, heads):
    place = torch.remainder(j, pattern.stride)
    same = j - place == i - torch.remainder(i, pattern.stride)
    return (j <= i) & (same | (place >= pattern.stride - pattern.summary))


def _longformer(pattern, i, j, heads):
    def is_global(position):
        if isinstance(pattern.global_tokens, int):
            return (position >= 0) & (position < _number(pattern.global_tokens))
        return torch.isin(position, torch.tensor(pattern.global_tokens, dtype=torch.long, device=position.device))

    kept = _dilated_window(i - j, pattern.window, pattern.dilation, False) | is_global(i) | is_global(j)
    return kept & (i - j >= 0) if pattern.causal else kept


def _big_bird(pattern, i, j, heads, length):
    kept = torch.zeros((1, heads if pattern.per_head else 1, i.shape[2], len(j)), dtype=torch.bool, device="cpu")
    columns = torch.div(j, pattern.block, rounding_mode="floor").tolist()
    for head in range(kept.shape[1]):
        of_row = big_bird_blocks(pattern, length, head)
        for row, position in enumerate(i.flatten().tolist()):
            allowed = of_row.get(position // pattern.block, frozenset())
            kept[0, head, row] = torch.tensor([column in allowed for column in columns], dtype=torch.bool, device="cpu")
    kept = kept.to(i.device)
    return kept & (i - j >= 0) if pattern.causal else kept


def _block_mask(pattern, i, j, heads):
    rows, columns = pattern.block
    Nq, Nk = (i - j).shape[-2:]
    mask = pattern.mask.expand(*pattern.mask.shape[:-2], -(-Nq // rows), -(-Nk // columns))
    return mask.repeat_interleave(rows, -2)[..., :Nq, :].repeat_interleave(columns, -1)[..., :Nk]


def _element_mask(pattern, i, j, heads):
    if pattern.csr is None:
        return pattern.mask
    crow, col, Nq, Nk = pattern.csr
    kept = torch.zeros((*crow.shape[:-1], Nq, Nk), dtype=torch.bool, device="cpu")
    for lead in torch.cartesian_prod(*(torch.arange(size, device="cpu") for size in (1, *crow.shape[:-1]))).view(
        -1, crow.dim()
    ):
        place = tuple(lead[1:].tolist())
        for row in range(Nq):
            begin, end = int(crow[place][row]), int(crow[place][row + 1])
            kept[(*place, row)][col[place][begin:end].long().cpu()] = True
    return kept.to(crow.device)


def _index_causal(pattern, i, j, heads):
    return pattern.q_idx.long().unsqueeze(-1) >= pattern.k_idx.long().unsqueeze(-2)


_FORMULAS = {
    patterns.Full: _full,
    patterns.Causal: _causal,
    patterns.SlidingWindow: _sliding_window,
    patterns.Streaming: _streaming,
    patterns.BlockDiagonal: _block_diagonal,
    patterns.Dilated: _dilated,
    patterns.Strided: _strided,
    patterns.Fixed: _fixed,
    patterns.Longformer: _longformer,
    patterns.BlockMask: _block_mask,
    patterns.ElementMask: _element_mask,
    patterns.IndexCausal: _index_causal,
}
