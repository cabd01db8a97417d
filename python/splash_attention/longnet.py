"""LongNet's dilated attention: dense attention within segments, among every r-th token of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _checks, _habits
from ._constants import POSITIONS
from ._longnet_mix import longnet_mix
from ._longnet_operator import longnet_operator
from ._longnet_parts import EagerTake, Take, key_heads, mix_numbers, parts_of
from ._values import compiling, transforming
from .attention import attention
from .normalizers import Softmax
from .patterns import BlockDiagonal


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
    **unknown,
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
    if unknown:
        raise _habits.unknown(longnet_attention, unknown)
    segments = _check_segments(segments)
    _checks.check_inputs(q, k, v)
    N = q.shape[2]
    if k.shape[2] != N:
        raise ValueError(f"k: expected as many keys as queries, {N}, got {k.shape[2]}")
    if not isinstance(causal, bool):
        raise TypeError(f"causal: expected a bool, got {type(causal).__name__}")
    lengths, _ = _checks.check_lengths(lengths, None, q, N, None, 0, validate)
    if compiling() and not transforming():
        return longnet_operator(q, k, v, lengths, segments, causal, scale, deterministic)
    parts = parts_of(segments, q, k, lengths)
    if not parts:
        return attention(q, k, v, scale=scale, lengths=lengths, deterministic=deterministic)

    query_heads = (None,) * len(parts)
    kv_heads = tuple(key_heads(part, q.shape[1], k.shape[1]) for part in parts)
    take = (Take if compiling() else EagerTake).apply
    tensors = take(parts, query_heads, q), take(parts, kv_heads, k), take(parts, kv_heads, v)
    outs, rows = [], []
    for part, *qkv in zip(parts, *tensors, strict=True):
        axis = part.axis(lengths)
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
    return longnet_mix(outs, rows, mix_numbers(parts), q.shape[1], N)


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
            if not 1 <= number < POSITIONS:
                raise ValueError(f"segments: expected {name} from 1 to 2**29 - 1, got {number}")
    return tuple((w, r) for w, r in segments)
