"""Blocks chosen by the content of queries and keys."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from .._checks import check_lengths, check_positions
from .._dtypes import autocast_dtype, cast, check_one_dtype
from .._values import compiling, smaller
from .band import Causal
from .base import Pattern
from .block_mask import BlockMask
from .checks import check_block, check_device, check_flag, check_number, check_tensor, four, shape_of
from .opaque import register


@torch.no_grad()
def top_k_blocks(
    q: Tensor,
    k: Tensor,
    block: int | tuple[int, int],
    top: int,
    share_group: bool = False,
    causal: bool = True,
    *,
    q_start: int | None = None,
    k_start: int = 0,
    lengths: Tensor | None = None,
    kv_lengths: Tensor | None = None,
) -> Pattern:
    """Each query block keeps the `top` key blocks with the best mean-pooled scores, its own block always among them.

    q: (B, Hq, Nq, D), k: (B, Hkv, Nk, D), of one dtype (autocast as in attention()); no gradient flows through the
    choice. block: b or (bm, bn), multiples of 16.
    The score of two blocks is the mean of its queries times the mean of its keys, in float32 at least; equal scores go
    to the earlier block. Own blocks are those in which the positions of the block's queries lie: exactly one where
    positions and blocks align, else up to bm / bn + 1; all of them are kept and count among the `top`. Blocks after
    the own ones are never kept.
    share_group: one list for all query heads of a key/value head, by the sum of their scores.
    causal: return BlockMask & Causal(), without it the BlockMask alone.
    q_start, k_start, lengths, kv_lengths: as those of attention(), and what it is called with later. Padding takes no
    part in the means, so that each batch entry gets the blocks that it would get alone.

    Everything happens on the tensors' device without waiting for it. TypeError for dtypes, ValueError for shapes.
    """
    pair = check_block(block)
    check_number("top", top, 1)
    check_flag("share_group", share_group)
    check_flag("causal", causal)
    _check_inputs(q, k)
    check_positions(q.shape[2], k.shape[2], q_start, k_start, kv_lengths is not None)
    lengths, kv_lengths = check_lengths(lengths, kv_lengths, q, k.shape[2], q_start, k_start, False)
    mask = _chosen_blocks(
        cast(q.detach()), cast(k.detach()), lengths, kv_lengths, *pair, top, share_group, q_start, k_start
    )
    return BlockMask(mask, pair) & Causal() if causal else BlockMask(mask, pair)


@register("chosen_blocks", torch.bool)
def _shapes(q, k, lengths, kv_lengths, rows, columns, top, share_group, q_start, k_start):
    blocks = ((length + size - 1) // size for length, size in ((q.shape[2], rows), (k.shape[2], columns)))
    return [(q.shape[0], q.shape[1], *blocks)]


def _chosen_blocks(q, k, lengths, kv_lengths, rows, columns, top, share_group, q_start, k_start):
    """The mask, (B, Hq, block rows, block columns)."""
    if compiling():
        places = k_start + k.shape[2] - q.shape[2] if q_start is None else q_start, k_start
        return torch.ops.splash.chosen_blocks(q, k, lengths, kv_lengths, rows, columns, top, share_group, *places)
    heads, kv_heads = q.shape[1], k.shape[1]
    Nq, Nk = q.shape[2], k.shape[2]
    offset, queries, keys = _places(q, k, q_start, k_start, lengths, kv_lengths)

    pooled_q = _pool(q, rows, queries).unflatten(1, (kv_heads, heads // kv_heads))
    if share_group:
        pooled_q = pooled_q.sum(2, keepdim=True)
    pooled_k = _pool(k, columns, keys).unsqueeze(2).transpose(-1, -2)
    with torch.autocast(q.device.type, enabled=False) if autocast_dtype(q.device) else nullcontext():
        scores = (pooled_q @ pooled_k).flatten(1, 2)
    own, earlier = _own_blocks(Nq, Nk, rows, columns, offset, queries, q.device)
    scores = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf).masked_fill(~earlier, -torch.inf)
    mask = own | _best(scores, earlier, top - own.sum(-1, keepdim=True), smaller(top, scores.shape[-1]))
    return mask.repeat_interleave(heads // kv_heads, 1) if share_group else mask


def _check_inputs(q: Tensor, k: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k)):
        check_tensor(name, tensor, 4, 4, "(batch, heads, length, head_dim)")
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {tensor.dtype}")
    check_device("k", k, q.device)
    check_one_dtype(q=q, k=k)
    batch, heads, _, dim = q.shape
    if k.shape[0] != batch or k.shape[3] != dim or k.shape[1] < 1 or heads % k.shape[1]:
        raise ValueError(
            f"k: expected (B, Hkv, Nk, D) with q's B and D and a number of heads that divides q's {shape_of(q)}, "
            f"got {shape_of(k)}"
        )


def _places(q, k, q_start, k_start, lengths, kv_lengths) -> tuple[Tensor | int, Tensor | int, Tensor | int]:
    """q_start - k_start, and how many queries and keys are no padding; int64 (B, 1, 1) where batch entries differ."""
    Nq, Nk = q.shape[2], k.shape[2]
    if kv_lengths is not None:
        keys = kv_lengths.long().clamp(0, Nk)[:, None, None]
        return keys - Nq, Nq, keys
    q_start = k_start + Nk - Nq if q_start is None else q_start
    if lengths is None:
        return q_start - k_start, Nq, Nk
    length = lengths.long()[:, None, None]
    return q_start - k_start, (length - q_start).clamp(0, Nq), (length - k_start).clamp(0, Nk)


def _pool(tensor: Tensor, block: int, length: Tensor | int) -> Tensor:
    """(B, H, N, D) to (B, H, ceil(N / block), D): means over blocks, over the rows before `length` that they have."""
    N, wide = tensor.shape[2], torch.promote_types(tensor.dtype, torch.float32)
    if isinstance(length, Tensor):
        tensor = tensor.masked_fill(torch.arange(N, device=tensor.device)[:, None] >= length[:, None], 0)
    # A wide copy of the whole tensor would be the largest cost, and on the CPU a sum makes one of its input.
    parts = tensor.split(1, 1) if tensor.device.type == "cpu" and tensor.dtype is not wide else (tensor,)
    whole = N // block * block
    sums = torch.cat([part[:, :, :whole].unflatten(2, (-1, block)).sum(3, dtype=wide) for part in parts], 1)
    if whole < N:
        sums = torch.cat([sums, tensor[:, :, whole:].sum(2, True, dtype=wide)], 2)
    begins = torch.arange(0, N, block, device=tensor.device)[:, None]
    counts = (length[:, None] if isinstance(length, Tensor) else length) - begins
    return sums / counts.clamp(1, block)


def _own_blocks(
    Nq: int, Nk: int, rows: int, columns: int, offset: Tensor | int, queries: Tensor | int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """bool (B or 1, 1, block rows, block columns): where a block's queries stand, and the blocks before that.

    offset: q_start - k_start. queries: how many are no padding.
    """
    first = torch.arange(0, Nq, rows, device=device)[:, None]
    ends = torch.minimum(first + rows, queries) if isinstance(queries, Tensor) else (first + rows).clamp(max=queries)
    column = torch.arange((Nk + columns - 1) // columns, device=device)
    first, last = ((row + offset).div(columns, rounding_mode="floor") for row in (first, ends - 1))
    return tuple(
        four(kept) if kept.dim() < 3 else kept[:, None]
        for kept in ((column >= first) & (column <= last), column < first)
    )


def _best(scores: Tensor, allowed: Tensor, count: Tensor, most: int) -> Tensor:
    """bool: the `count` (at most `most`) largest scores of each row that are allowed, the first ones of equal ones.

    Scores that are not allowed are -inf. Without indices of all scores, whose 64 bits would be the largest cost.
    """
    if most == 0:
        return allowed.expand_as(scores)
    largest = scores.topk(most, -1).values
    least = largest.gather(-1, (count - 1).clamp(0, most - 1).expand(*scores.shape[:-1], 1))
    above = scores > least
    equal = (scores == least) & allowed
    kept = above | (equal & (equal.cumsum(-1, dtype=torch.int32) <= count - above.sum(-1, keepdim=True)))
    return kept & (count > 0)
