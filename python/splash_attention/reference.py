"""The oracle: attention by dense masks and closed forms, written apart from the kernels, with Torch operations only.

Nothing here is fast, and nothing here is shared with the C++ code: masks are the index formulas of the pattern table,
entmax is solved by sorting or bisection, gradients come from autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .normalizers import Entmax, Normalizer, as_normalizer
from .patterns import And, BlockMask, Causal, Full, Pattern, Prepared, SlidingWindow, as_pattern


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
    kept, row_is_real = _kept(pattern, q, Nk, lengths, kv_lengths, q_start, k_start)

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
    alpha = normalizer.alpha if isinstance(normalizer, Entmax) else 1
    weights, statistic = softmax(scores, kept) if alpha == 1 else entmax(scores, kept, alpha)
    out = weights.to(products.dtype) @ v[:, :, None]
    # Also keeps NaN of the output's gradient out of rows that are padding or keep nothing.
    out = out.masked_fill(~kept.any(-1, keepdim=True), 0)
    return out.reshape(batch, heads, Nq, dim), statistic.reshape(batch, heads, Nq)


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


def softmax(scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension of the kept scores, and their natural log-sum-exp.

    scores: (..., n), kept: bool of that shape. A row that keeps nothing has weights 0 and log-sum-exp -inf.
    """
    empty = ~kept.any(-1, keepdim=True)
    scores = scores.masked_fill(~kept, -torch.inf).masked_fill(empty, 0)
    weights = torch.softmax(scores, -1).masked_fill(empty, 0)
    return weights, torch.logsumexp(scores, -1).masked_fill(empty[..., 0], -torch.inf)


def entmax(scores: Tensor, kept: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """alpha-entmax over the last dimension of the kept scores, and its threshold tau in units of (alpha - 1) s.

    scores: (..., n), kept: bool of that shape, 1 < alpha <= 2. A row that keeps nothing has weights 0 and tau +inf.
    Peters, Niculae & Martins 2019, with the Jacobian of their Proposition 2.
    """
    return _Entmax.apply(scores, kept, alpha)


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, kept, alpha):
        z = scores.masked_fill(~kept, -torch.inf) * (alpha - 1)
        empty = ~kept.any(-1, keepdim=True)
        top = z.amax(-1, keepdim=True) if z.shape[-1] else z.new_zeros(*z.shape[:-1], 1)
        top = top.masked_fill(empty, 0)
        # tau >= top - 1, so whatever lies further below has no weight, however far.
        x = (z - top).clamp(min=-2)
        beta = 1 / (alpha - 1)
        tau = _SOLVERS.get(alpha, _bisect)(x, beta) if x.shape[-1] else -torch.ones_like(top)
        for _ in range(2):  # Newton's steps take away the rounding errors of the long sums above.
            base = (x - tau).clamp(min=0)
            slope = beta * _power(base, beta - 1).sum(-1, keepdim=True)
            tau = tau + torch.where(slope > 0, (_power(base, beta).sum(-1, keepdim=True) - 1) / slope, 0)
        base = (x - tau).clamp(min=0).masked_fill(~kept, 0)
        ctx.save_for_backward(base)
        ctx.alpha = alpha
        return _power(base, beta), (top + tau).masked_fill(empty, torch.inf)[..., 0]

    @staticmethod
    def backward(ctx, grad_weights, grad_tau):
        (base,) = ctx.saved_tensors
        u = _power(base, (2 - ctx.alpha) / (ctx.alpha - 1))
        total = u.sum(-1, keepdim=True)
        total = total.masked_fill(total == 0, 1)
        grad_weights = grad_weights.masked_fill(u == 0, 0)
        delta = ((u * grad_weights).sum(-1, keepdim=True) - (ctx.alpha - 1) * grad_tau[..., None]) / total
        return (u * (grad_weights - delta)).masked_fill(u == 0, 0), None, None


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent, and 0 for base 0 whatever the exponent."""
    return torch.where(base == 0, 0, base**exponent)


def _sort_sparsemax(x: Tensor, beta: float) -> Tensor:
    """tau of alpha 2 in closed form (Martins & Astudillo 2016, algorithm 1)."""
    ordered, count, total = _prefixes(x)
    support = (1 + count * ordered > total).sum(-1, keepdim=True).clamp(min=1)
    return (total.gather(-1, support - 1) - 1) / support


def _sort_entmax15(x: Tensor, beta: float) -> Tensor:
    """tau of alpha 1.5 in closed form (Peters, Niculae & Martins 2019, algorithm 2)."""
    ordered, count, total = _prefixes(x)
    mean = total / count
    spread = (ordered**2).cumsum(-1) - count * mean**2
    candidates = mean - ((1 - spread) / count).clamp(min=0).sqrt()
    support = (candidates <= ordered).sum(-1, keepdim=True).clamp(min=1)
    return candidates.gather(-1, support - 1)


def _prefixes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ordered = x.sort(-1, descending=True).values
    return ordered, torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype), ordered.cumsum(-1)


def _bisect(x: Tensor, beta: float) -> Tensor:
    """tau of any alpha: sum [x - tau]+^beta falls from at least 1 at tau = -1 to at most 1 at tau = -n^(-1 / beta)."""
    low = x.new_full((*x.shape[:-1], 1), -1)
    high = x.new_full((*x.shape[:-1], 1), -(x.shape[-1] ** (-1 / beta)))
    for _ in range(64):
        middle = (low + high) / 2
        above = _power((x - middle).clamp(min=0), beta).sum(-1, keepdim=True) >= 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return low


_SOLVERS = {1.5: _sort_entmax15, 2: _sort_sparsemax}


def _kept(
    pattern: Pattern,
    q: Tensor,
    Nk: int,
    lengths: Tensor | None,
    kv_lengths: Tensor | None,
    q_start: int | None,
    k_start: int,
) -> tuple[Tensor, Tensor]:
    """Which scores (B or 1, H or 1, Nq, Nk) are kept, and which query rows (B or 1, 1, Nq, 1) are not padding."""
    Nq = q.shape[2]
    row = torch.arange(Nq, device=q.device)[None, None, :, None]
    column = torch.arange(Nk, device=q.device)
    if kv_lengths is not None:
        held = kv_lengths.long()[:, None, None, None]
        i, j = row + (k_start + held - Nq), column + k_start
        return dense_mask(pattern, i, j) & (column < held), torch.ones_like(i, dtype=torch.bool)
    i, j = row + (k_start + Nk - Nq if q_start is None else q_start), column + k_start
    kept = dense_mask(pattern, i, j)
    if lengths is None:
        return kept, torch.ones_like(i, dtype=torch.bool)
    length = lengths.long()[:, None, None, None]
    return kept & (j < length) & (i < length), i < length
