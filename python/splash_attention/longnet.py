"""LongNet's dilated attention: dense attention within segments, among every r-th token of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import _checks
from ._longnet_mix import longnet_mix
from ._vmap import fold_batch
from .attention import attention
from .normalizers import Softmax
from .patterns import BlockDiagonal

Heads = slice | tuple[int, ...] | None
"""Heads in regular steps, or one by one; None where each residue has its own: itself and every r-th after it."""


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
    A branch is one call of attention where B = 1 or r >= Hq, and residues have equally many tokens; otherwise some, up
    to r. On CUDA the branches together may take 128.
    A group of query heads that is neither a multiple nor a divisor of r gathers its keys and values, too.

    Raises ValueError (shapes, ranges), TypeError (dtypes) and NoKernelError (nothing compiled for it; second
    derivatives, and derivatives in forward mode).
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
    parts = _parts(segments, q, k, lengths)
    if not parts:
        return attention(q, k, v, scale=scale, lengths=lengths, deterministic=deterministic)

    query_heads = (None,) * len(parts)
    key_heads = tuple(_key_heads(part, q.shape[1], k.shape[1]) for part in parts)
    take = (_Take if torch.compiler.is_compiling() else _EagerTake).apply
    tensors = take(parts, query_heads, q), take(parts, key_heads, k), take(parts, key_heads, v)
    outs, rows = [], []
    for part, *qkv in zip(parts, *tensors, strict=True):
        # Residues are entries of the batch, or heads where they have one each: views, and so no copies.
        axis = 1 if part.heads == 1 and lengths is None else 0
        out, row = attention(
            *(tensor.flatten(axis, axis + 1) for tensor in qkv),
            BlockDiagonal(part.per_segment, causal),
            Softmax(),
            scale=scale,
            lengths=None if lengths is None else part.lengths(lengths),
            return_statistic=True,
            deterministic=deterministic,
        )
        sizes = qkv[0].shape[axis : axis + 2]
        outs.append(out.unflatten(axis, sizes))
        rows.append(row.detach().unflatten(axis, sizes))
    numbers = [number for part in parts for number in (part.w, part.r, part.first)]
    return longnet_mix(outs, rows, numbers, q.shape[1], N)


class _Part(NamedTuple):
    """The heads h with h mod r in [first, first + residues) in a branch (w, r), that one call of attention serves."""

    w: int
    r: int
    first: int
    residues: int
    heads: int
    """of each residue"""

    @property
    def per_segment(self) -> int:
        return _per_segment(self.w, self.r, self.first)

    def lengths(self, lengths: Tensor) -> Tensor:
        """How many tokens of each residue lie before each length."""
        residues = torch.arange(self.first, self.first + self.residues, device=lengths.device, dtype=lengths.dtype)
        lengths = lengths[:, None]
        rest = (lengths % self.w - residues + self.r - 1) // self.r
        return (lengths // self.w * self.per_segment + rest.clamp(min=0)).flatten()

    def take(self, tensor: Tensor, heads: Heads) -> Tensor:
        """Its part of a tensor (B, H, N, D): (B, residues, heads, tokens, D). A view where it can be one."""
        if isinstance(heads, tuple):
            tensor = torch.stack([tensor[:, head] for head in heads], 1)
        elif heads is not None:
            tensor = tensor[:, heads]
        if not self._in_steps(tensor.shape[2]):
            chosen = self._index(tensor, heads is None)
            return tensor[chosen] if heads is None else tensor[chosen].movedim(2, 1)
        return self._steps(tensor, heads is None)

    def add(self, total: Tensor, heads: Heads, part: Tensor) -> None:
        """The transpose of take: adds a part to a tensor in place."""
        if isinstance(heads, tuple):
            for n, head in enumerate(heads):
                self.add(total, slice(head, head + 1), part[:, :, n : n + 1])
            return
        if heads is not None:
            total = total[:, heads]
        if self.residues not in (1, self.r):
            # Torch's functionalization of what is written through unfold() drops what lies beside it.
            for n in range(self.residues):
                self._replace(first=self.first + n, residues=1).add(
                    total, None if heads is None else slice(None), part[:, n : n + 1]
                )
        elif self._in_steps(total.shape[2]):
            self._steps(total, heads is None).add_(part)
        else:
            total[self._index(total, heads is None)] += part if heads is None else part.movedim(1, 2)

    def _in_steps(self, N: int) -> bool:
        """Whether the tokens are evenly spaced over segments, too."""
        return self.w % self.r == 0 or self.w >= N

    def _steps(self, tensor: Tensor, with_heads: bool) -> Tensor:
        """(B, residues, heads, tokens, D). with_heads: a residue has its own heads, as it has its own tokens."""
        first, r = self.first, self.r
        if self.residues == 1:
            return (tensor[:, first::r, first::r] if with_heads else tensor[:, :, first::r]).unsqueeze(1)
        if self.residues < r:
            tensor = tensor[:, :, first:].unfold(2, self.residues, r)
            tensor = tensor[:, first:].unfold(1, self.residues, r).diagonal(0, -2, -1) if with_heads else tensor
            return tensor.movedim(-1, 1)
        tensor = tensor.unflatten(2, (tensor.shape[2] // r, r))
        if with_heads:
            return tensor.unflatten(1, (self.heads, r)).diagonal(0, 2, 4).movedim(-1, 1)
        return tensor.movedim(3, 1)

    def _index(self, tensor: Tensor, with_heads: bool) -> tuple:
        def numbers(*range_):
            return torch.arange(*range_, device=tensor.device)

        first, per_segment = self.first, self.per_segment
        residues, t = numbers(first, first + self.residues), numbers(_count(self.w, self.r, first, tensor.shape[2]))
        tokens = residues[:, None] + t // per_segment * self.w + t % per_segment * self.r
        if not with_heads:
            return slice(None), slice(None), tokens
        return slice(None), residues[:, None, None] + self.r * numbers(self.heads)[:, None], tokens[:, None]


def _parts(segments: tuple[tuple[int, int], ...], q: Tensor, k: Tensor, lengths: Tensor | None) -> tuple[_Part, ...]:
    """The calls of attention: residues of as many tokens share one where a dimension is left for them."""
    batch, heads, N, _ = q.shape
    group = heads // k.shape[1]
    # Whether counts are equal depends on N: one graph for all lengths that fit, one for the others.
    even = not torch.compiler.is_compiling() or all(w % r == 0 and N % r == 0 for w, r in segments)
    parts = []
    for w, r in segments:
        before = None
        for residue in range(min(r, heads)):
            count = _count(w, r, residue, N)
            if not count > 0:
                continue
            own = -(-(heads - residue) // r)
            free = batch == 1 or (own == 1 and lengths is None)
            regular = group % r == 0 or (r % group == 0 and (group == 1 or residue % group > 0))
            if even and free and regular and (before == (own, _per_segment(w, r, residue), count)):
                parts[-1] = parts[-1]._replace(residues=parts[-1].residues + 1)
            else:
                parts.append(_Part(w, r, residue, 1, own))
            before = (own, _per_segment(w, r, residue), count) if even else None
    return tuple(parts)


def _per_segment(w: int, r: int, residue: int) -> int:
    """Tokens of a residue in a whole segment."""
    return max(0, -(-(w - residue) // r))


def _count(w: int, r: int, residue: int, N: int) -> int:
    """Tokens of a residue among N."""
    return N // w * _per_segment(w, r, residue) + max(0, -(-(N % w - residue) // r))


class _Take(torch.autograd.Function):
    """A tensor's share of each part. Autograd's own slices would fill a gradient of full size for each of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(parts, heads, tensor):
        return tuple(part.take(tensor, chosen) for part, chosen in zip(parts, heads, strict=True))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.parts, ctx.heads, tensor = inputs
        ctx.shape = tensor.shape

    @staticmethod
    def backward(ctx, *gradients):
        # Sums of 16 bits, as autograd's own: in float32 they took a third of the whole backward.
        rest = list(zip(ctx.parts, ctx.heads, gradients, strict=True))
        whole = next((n for n, part in enumerate(ctx.parts) if part.r == 1), None)
        total = gradients[0].new_zeros(ctx.shape) if whole is None else rest.pop(whole)[2].squeeze(1).clone()
        for part, heads, gradient in rest:
            part.add(total, heads, gradient)
        return None, None, total


class _EagerTake(_Take):
    """With what torch.compile refuses to see in a Function, and does not need."""

    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, parts, heads, tensor):
        fold = fold_batch(info, tensor, in_dims[2])
        taken = _EagerTake.apply(parts, heads, fold(tensor, in_dims[2]))
        return tuple(fold.undo(part) for part in taken), (0,) * len(parts)

    @staticmethod
    def jvp(ctx, parts, heads, tangent):
        return _Take.forward(ctx.parts, ctx.heads, tangent)


def _key_heads(part: _Part, heads: int, kv_heads: int) -> Heads:
    """The key/value heads that the query heads of each residue read."""
    group, r = heads // kv_heads, part.r
    if group == 1:
        return None
    if group % r == 0:
        return slice(None)
    if r % group == 0:
        return slice(part.first // group, None, r // group)
    return tuple(head // group for head in range(part.first, heads, r))


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
