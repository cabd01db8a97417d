"""LongNet's dilated attention: dense attention within segments, among every r-th token of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import _checks
from .attention import attention
from .normalizers import Softmax
from .patterns import BlockDiagonal

Heads = slice | tuple[int, ...]
"""Heads in regular steps, or one by one."""


def longnet_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Sequence[tuple[int, int]],
    causal: bool = True,
    *,
    scale: float | None = None,
    lengths: Tensor | None = None,
    deterministic: bool | None = None,
    validate: bool = False,
) -> Tensor:
    """Softmax attention within segments of w tokens, dilated by r, mixed over the pairs (w, r) of `segments`.

    In the branch (w, r), query head h sees in segment m the tokens m * w + (h mod r) + r * t below (m + 1) * w, densely
    among themselves, t = 0, 1, ... (with `causal` only those up to the query). A token's output is the mean over the
    branches that cover it, weighted in proportion to exp(lse), where lse is the log-sum-exp of the branch's scores in
    that row. No gradient passes through these weights. A token that no branch covers in a head has output 0 there.

    q: (B, Hq, N, D). k, v: (B, Hkv, N, D); query head h reads head h // (Hq / Hkv). Dtypes, strides and autocast as in
        attention(). N need not be a multiple of w: the last segment is shorter.
    segments: pairs of positive ints; the paper's are (2048, 1), (4096, 2), (8192, 4), (16384, 6), (32768, 12).
    scale, lengths, deterministic, validate: as in attention().

    Returns (B, Hq, N, D) in the dtype of q (under autocast in its dtype). A branch computes N * w / r^2 scores a head.
    Inputs are read in place where r divides w or N <= w; otherwise a branch first gathers its tokens, N / r a head.
    A group of query heads that is neither a multiple nor a divisor of r gathers its keys and values, too.

    Raises ValueError (shapes, ranges), TypeError (dtypes) and NoKernelError (nothing compiled for it).
    Source: Ding et al. 2023, LongNet (arXiv:2307.02486).
    """
    segments = _check_segments(segments)
    _checks.check_inputs(q, k, v)
    N = q.shape[2]
    if k.shape[2] != N:
        raise ValueError(f"k: expected as many keys as queries, {N}, got {k.shape[2]}")
    if not isinstance(causal, bool):
        raise TypeError(f"causal: expected a bool, got {type(causal).__name__}")
    lengths, _ = _checks.check_lengths(lengths, None, q, N, None, 0, validate)
    combs = tuple(
        comb
        for branch, (w, r) in enumerate(segments)
        for residue in range(min(r, q.shape[1]))
        if (comb := _Comb(branch, w, r, residue)).count(N) > 0
    )
    if not combs:
        return attention(q, k, v, scale=scale, lengths=lengths, deterministic=deterministic)

    query_heads = tuple(slice(comb.residue, None, comb.r) for comb in combs)
    key_heads = tuple(_key_heads(comb, q.shape[1], k.shape[1]) for comb in combs)
    parts = zip(
        combs,
        _Take.apply(combs, query_heads, q),
        _Take.apply(combs, key_heads, k),
        _Take.apply(combs, key_heads, v),
        strict=True,
    )
    outs, rows = [], []
    for comb, *qkv in parts:
        out, row = attention(
            *qkv,
            BlockDiagonal(comb.per_segment, causal),
            Softmax(),
            scale=scale,
            lengths=None if lengths is None else comb.lengths(lengths),
            return_statistic=True,
            deterministic=deterministic,
        )
        outs.append(out)
        rows.append(row.detach())
    return _Mix.apply(combs, query_heads, _weights(combs, query_heads, rows, q), *outs)


class _Comb(NamedTuple):
    """The tokens that the heads h with h mod r = residue see in a branch."""

    branch: int
    w: int
    r: int
    residue: int

    @property
    def per_segment(self) -> int:
        return max(0, -(-(self.w - self.residue) // self.r))

    def count(self, N: int) -> int:
        return N // self.w * self.per_segment + max(0, -(-(N % self.w - self.residue) // self.r))

    def lengths(self, lengths: Tensor) -> Tensor:
        """How many of them lie before each length."""
        rest = (lengths % self.w - self.residue + self.r - 1) // self.r
        return lengths // self.w * self.per_segment + rest.clamp(min=0)

    def tokens(self, N: int, device: torch.device) -> slice | Tensor:
        if self.w % self.r == 0 or self.w >= N:
            return slice(self.residue, None, self.r)
        t = torch.arange(self.count(N), device=device)
        return t // self.per_segment * self.w + self.residue + t % self.per_segment * self.r

    def take(self, tensor: Tensor, heads: Heads) -> Tensor:
        """Its part of a tensor (B, H, N, ...)."""
        tokens = self.tokens(tensor.shape[2], tensor.device)
        one_by_one = isinstance(heads, tuple)
        tensor = torch.stack([tensor[:, head] for head in heads], 1) if one_by_one else tensor[:, heads]
        return tensor[:, :, tokens] if isinstance(tokens, slice) else tensor.index_select(2, tokens)

    def write(self, tensor: Tensor, heads: slice, part: Tensor) -> None:
        tokens = self.tokens(tensor.shape[2], tensor.device)
        if isinstance(tokens, slice):
            tensor[:, heads, tokens] = part
        else:
            tensor[:, heads].index_copy_(2, tokens, part)

    def add(self, total: Tensor, heads: Heads, part: Tensor) -> None:
        """The transpose of take: adds a part to a tensor in place."""
        if isinstance(heads, tuple):
            for n, head in enumerate(heads):
                self.add(total, slice(head, head + 1), part[:, n : n + 1])
            return
        tokens = self.tokens(total.shape[2], total.device)
        if isinstance(tokens, slice):
            total[:, heads, tokens].add_(part)
        else:
            total[:, heads].index_add_(2, tokens, part.to(total.dtype))


class _Take(torch.autograd.Function):
    """The parts of a tensor for each comb. Autograd's own slices would fill a gradient of full size for each part."""

    generate_vmap_rule = True

    @staticmethod
    def forward(combs, heads, tensor):
        return tuple(comb.take(tensor, chosen) for comb, chosen in zip(combs, heads, strict=True))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.combs, ctx.heads, tensor = inputs
        ctx.shape, ctx.dtype = tensor.shape, tensor.dtype

    @staticmethod
    def backward(ctx, *gradients):
        total = gradients[0].new_zeros(ctx.shape, dtype=_wide(ctx.dtype))
        for comb, heads, gradient in zip(ctx.combs, ctx.heads, gradients, strict=True):
            comb.add(total, heads, gradient)
        return None, None, total.to(ctx.dtype)


class _Mix(torch.autograd.Function):
    """The weighted sum of the parts, (B, Hq, N, D), from weights (branches, B, Hq, N) that get no gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(combs, heads, weights, *parts):
        first = parts[0]
        total = first.new_zeros((*weights.shape[1:], first.shape[3]), dtype=weights.dtype)
        for comb, chosen, part in zip(combs, heads, parts, strict=True):
            comb.add(total, chosen, part * comb.take(weights[comb.branch], chosen)[..., None])
        return total.to(first.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.combs, ctx.heads, weights, *_ = inputs
        ctx.save_for_backward(weights)

    @staticmethod
    def backward(ctx, gradient):
        (weights,) = ctx.saved_tensors
        parts = [
            (comb.take(gradient, chosen) * comb.take(weights[comb.branch], chosen)[..., None]).to(gradient.dtype)
            for comb, chosen in zip(ctx.combs, ctx.heads, strict=True)
        ]
        return None, None, None, *parts


def _weights(combs: tuple[_Comb, ...], heads: tuple[slice, ...], rows: list[Tensor], q: Tensor) -> Tensor:
    """(branches, B, Hq, N): the share of each branch in a token's output, 0 where it does not cover the token."""
    branches = 1 + max(comb.branch for comb in combs)
    lse = rows[0].new_full((branches, *q.shape[:3]), -torch.inf)
    for comb, chosen, row in zip(combs, heads, rows, strict=True):
        comb.write(lse[comb.branch], chosen, row)
    uncovered = (lse == -torch.inf).all(0)
    return torch.softmax(lse.masked_fill(uncovered, 0), 0).masked_fill(uncovered, 0)


def _key_heads(comb: _Comb, heads: int, kv_heads: int) -> Heads:
    """The key/value heads that the query heads residue, residue + r, ... read."""
    group, r = heads // kv_heads, comb.r
    if group % r == 0:
        return slice(None)
    if r % group == 0:
        return slice(comb.residue // group, None, r // group)
    return tuple(head // group for head in range(comb.residue, heads, r))


def _check_segments(segments: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    if not isinstance(segments, (list, tuple)):
        raise TypeError(f"segments: expected pairs (w, r), got {type(segments).__name__}")
    if not segments:
        raise ValueError("segments: expected at least one pair (w, r), got none")
    for pair in segments:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"segments: expected pairs (w, r), got {pair!r}")
        for name, number in zip("wr", pair, strict=True):
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"segments: expected ints, got {name} of type {type(number).__name__}")
            if not 1 <= number < _checks.MAX_POSITION:
                raise ValueError(f"segments: expected {name} from 1 to 2**29 - 1, got {number}")
    return tuple((w, r) for w, r in segments)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Sums of parts are rounded to 16 bits once, at the end."""
    return torch.promote_types(dtype, torch.float32)
