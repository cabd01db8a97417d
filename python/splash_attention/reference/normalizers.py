"""Closed forms of the normalizers over dense scores."""

from __future__ import annotations

import torch
from torch import Tensor

from ..normalizers import Elastic, Entmax, Normalizer, Softmax, TopK


def normalize(normalizer: Normalizer, scores: Tensor, kept: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and statistic (..., Nq) of scores (B, Hkv, group, Nq, Nk), of which those in `kept` take part.

    i: (B or 1, Nq, 1) and j: (Nk,), integers, are the positions of queries and keys. Differentiable in the scores and
    in what the normalizer has learned. TypeError for a normalizer whose formula is not written here.
    """
    if isinstance(normalizer, Softmax):
        sink = normalizer.sink_logit
        return softmax(scores, kept, None if sink is None else _by_head(sink, scores))
    if isinstance(normalizer, Entmax):
        return softmax(scores, kept) if normalizer.alpha == 1 else entmax(scores, kept, normalizer.alpha)
    if isinstance(normalizer, Elastic):
        bias = None if normalizer.bias is None else _by_head(normalizer.bias, scores)
        return elastic(scores, kept, i, j, _by_head(normalizer.tau, scores), bias)
    if isinstance(normalizer, TopK):
        return normalize(normalizer.then, scores, top_k(scores, kept, normalizer.k), i, j)
    raise TypeError(f"reference: no formula for {type(normalizer).__name__}")


def _by_head(parameter: Tensor, scores: Tensor) -> Tensor:
    """(Hq, ...) as (Hkv, group, ...) in the precision of the scores."""
    return parameter.to(scores.dtype).unflatten(0, scores.shape[1:3])


def softmax(scores: Tensor, kept: Tensor, sink: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension of the kept scores, and their natural log-sum-exp.

    scores: (..., n), kept: bool of that shape. A row that keeps nothing has weights 0 and log-sum-exp -inf. sink: one
    more score of each row, broadcastable to (...) from the left of its last dimension, whose weight is left out.
    """
    empty = ~kept.any(-1, keepdim=True)
    scores = scores.masked_fill(~kept, -torch.inf).masked_fill(empty, 0)
    lse = torch.logsumexp(scores, -1).masked_fill(empty[..., 0], -torch.inf)
    if sink is not None:
        scores = torch.cat((scores, sink[..., None, None].expand(*scores.shape[:-1], 1)), -1)
    weights = torch.softmax(scores, -1)[..., : kept.shape[-1]]
    return weights.masked_fill(empty, 0), lse


def elastic(
    scores: Tensor, kept: Tensor, i: Tensor, j: Tensor, tau: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Elastic softmax (Fu et al. 2026): ReLU(softmax(s + b) + tau / (i + 1)), and the log-sum-exp of s + b.

    scores, kept: (B, Hkv, group, Nq, Nk), i: (B or 1, Nq, 1), j: (Nk,), tau: (Hkv, group), bias: (Hkv, group, T) by the
    distance i - j. Rows with i < 0 count as rows that keep nothing.
    """
    if bias is not None and bias.shape[-1]:
        distance = i - j
        chosen = bias[:, :, distance.clamp(0, bias.shape[-1] - 1)].movedim(2, 0)
        inside = ((distance >= 0) & (distance < bias.shape[-1]))[:, None, None]
        scores = scores + chosen.masked_fill(~inside, 0)
    i = i[:, None, None]
    kept = kept & (i >= 0)
    weights, lse = softmax(scores, kept)
    offset = tau[..., None, None] / (i.clamp(min=0) + 1)
    return torch.relu(weights + offset).masked_fill(~kept, 0), lse


def top_k(scores: Tensor, kept: Tensor, k: int) -> Tensor:
    """bool: the k largest kept scores along the last dimension, those with smaller indices first among equals."""
    order = scores.detach().masked_fill(~kept, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    first = torch.arange(scores.shape[-1], device=scores.device) < k
    return kept & torch.zeros_like(kept).scatter(-1, order, first.expand_as(order))


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
        weights = _power(base, beta)
        ctx.save_for_backward(weights)
        ctx.alpha = alpha
        return weights, (top + tau).masked_fill(empty, torch.inf)[..., 0]

    @staticmethod
    def backward(ctx, grad_weights, grad_tau):
        (weights,) = ctx.saved_tensors
        none = weights == 0
        u = torch.where(none, 0, weights.masked_fill(none, 1) ** (2 - ctx.alpha))
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
