"""Attention over dense scores, in any precision."""

from __future__ import annotations

import torch
from torch import Tensor

from ..normalizers import Normalizer, as_normalizer
from ..patterns import Pattern, as_pattern
from .masks import dense_mask
from .normalizers import normalize


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | str = "full",
    normalizer: Normalizer | str | float = "softmax",
    *,
    scale: float | None = None,
    lengths: Tensor | None = None,
    kv_lengths: Tensor | None = None,
    q_start: int | None = None,
    k_start: int = 0,
    dtype: torch.dtype | None = torch.float64,
) -> tuple[Tensor, Tensor]:
    """What attention() computes, as (out, statistic).

    q: (B, Hq, Nq, D), k and v: (B, Hkv, Nk, D); the other arguments as those of attention(). Differentiable in q, k, v.

    dtype: of the computation and the results, float64 by default. None is the dtype of q: the same mathematics as Torch
    does it in that precision, where each matrix product and each normalization rounds its result to it once. The
    statistic is float32 at least.
    """
    batch, heads, Nq, dim = q.shape
    kv_heads, Nk = k.shape[1], k.shape[2]
    pattern, normalizer = as_pattern(pattern), as_normalizer(normalizer)
    kept, row_is_real, i, j = _kept(pattern, q, Nk, lengths, kv_lengths, q_start, k_start)

    # (B, Hq, ...) -> (B, Hkv, group, ...): query head h reads key/value head h // group.
    group = (batch, kv_heads, heads // kv_heads)
    kept = kept.expand(batch, heads, Nq, Nk).reshape(*group, Nq, Nk)
    q, k, v = (t if dtype is None else t.to(dtype) for t in (q, k, v))
    # NaN in what takes no part must not spread: 0 * NaN is NaN.
    k, v = (t.masked_fill(~kept.any(-2).any(2)[..., None], 0) for t in (k, v))
    q = q.masked_fill(~row_is_real, 0).reshape(*group, Nq, dim)

    products = q @ k[:, :, None].transpose(-1, -2)
    # float16 and bfloat16 scores are normalized in float32 and the weights rounded, as torch.softmax does.
    wide = torch.promote_types(products.dtype, torch.float32)
    scores = products.to(wide) * (dim**-0.5 if scale is None else scale)
    weights, statistic = normalize(normalizer, scores, kept, i[:, 0], j)
    out = weights.to(products.dtype) @ v[:, :, None]
    # Also keeps NaN of the output's gradient out of rows that are padding or keep nothing.
    out = out.masked_fill(~kept.any(-1, keepdim=True), 0)
    return out.reshape(batch, heads, Nq, dim), statistic.reshape(batch, heads, Nq)


def _kept(
    pattern: Pattern,
    q: Tensor,
    Nk: int,
    lengths: Tensor | None,
    kv_lengths: Tensor | None,
    q_start: int | None,
    k_start: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which scores (B or 1, H or 1, Nq, Nk) are kept, which query rows (B or 1, 1, Nq, 1) are not padding, and the
    positions of queries (B or 1, 1, Nq, 1) and of keys (Nk)."""
    Nq = q.shape[2]
    row = torch.arange(Nq, device=q.device)[None, None, :, None]
    column = torch.arange(Nk, device=q.device)
    if kv_lengths is not None:
        held = kv_lengths.long()[:, None, None, None]
        i, j = row + (k_start + held - Nq), column + k_start
        kept = dense_mask(pattern, i, j, q.shape[1], k_start + kv_lengths.long())
        return kept & (column < held), torch.ones_like(i, dtype=torch.bool), i, j
    i, j = row + (k_start + Nk - Nq if q_start is None else q_start), column + k_start
    kept = dense_mask(pattern, i, j, q.shape[1], lengths)
    if lengths is None:
        return kept, torch.ones_like(i, dtype=torch.bool), i, j
    length = lengths.long()[:, None, None, None]
    return kept & (j < length) & (i < length), i < length, i, j
