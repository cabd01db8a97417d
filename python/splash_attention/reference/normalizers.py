"""Closed forms of the normalizers over dense scores."""

from __future__ import annotations

import torch
from torch import Tensor


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
