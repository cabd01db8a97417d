"""Blocks chosen by the content of queries and keys."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from .._dtypes import autocast_dtype, cast, check_one_dtype
from .band import Causal
from .base import Pattern
from .block_mask import BlockMask
from .checks import check_block, check_device, check_flag, check_number, check_tensor, shape_of

_MAX_POSITION = 2**29


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
    q_start, k_start: as those of attention().

    Everything happens on the tensors' device without waiting for it. TypeError for dtypes, ValueError for shapes.
    """
    pair = check_block(block)
    check_number("top", top, 1)
    check_flag("share_group", share_group)
    check_flag("causal", causal)
    check_number("q_start", q_start, -_MAX_POSITION, _MAX_POSITION, optional=True)
    check_number("k_start", k_start, -_MAX_POSITION, _MAX_POSITION)
    _check_inputs(q, k)
    (rows, columns), heads, kv_heads = pair, q.shape[1], k.shape[1]
    q_start = k_start + k.shape[2] - q.shape[2] if q_start is None else q_start

    pooled_q = _pool(cast(q), rows).unflatten(1, (kv_heads, heads // kv_heads))
    if share_group:
        pooled_q = pooled_q.sum(2, keepdim=True)
    pooled_k = _pool(cast(k), columns).unsqueeze(2).transpose(-1, -2)
    with torch.autocast(q.device.type, enabled=False) if autocast_dtype(q.device) else nullcontext():
        scores = (pooled_q @ pooled_k).flatten(1, 2)
    own, earlier = _own_blocks(q.shape[2], k.shape[2], rows, columns, q_start - k_start, q.device)
    scores = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf).masked_fill(~earlier, -torch.inf)

    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1], device=q.device).expand_as(order))
    mask = own | (earlier & (rank < top - own.sum(-1, keepdim=True)))
    if share_group:
        mask = mask.repeat_interleave(heads // kv_heads, 1)
    return BlockMask(mask, pair) & Causal() if causal else BlockMask(mask, pair)


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


def _pool(tensor: Tensor, block: int) -> Tensor:
    """(B, H, N, D) to (B, H, ceil(N / block), D): means over blocks, the last one over the rows that it has."""
    length = tensor.shape[2]
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    sums = torch.nn.functional.pad(wide, (0, 0, 0, -length % block)).unflatten(2, (-1, block)).sum(3)
    begins = torch.arange(0, length, block, device=tensor.device)
    return sums / (length - begins).clamp(max=block)[:, None]


def _own_blocks(Nq: int, Nk: int, rows: int, columns: int, offset: int, device) -> tuple[Tensor, Tensor]:
    """bool (block rows, block columns): where a block's queries stand, and the blocks before that.

    offset: q_start - k_start.
    """
    first = torch.arange(0, Nq, rows, device=device)[:, None]
    last = (first + rows).clamp(max=Nq) - 1
    column = torch.arange((Nk + columns - 1) // columns, device=device)
    first, last = ((row + offset).div(columns, rounding_mode="floor") for row in (first, last))
    return (column >= first) & (column <= last), column < first
