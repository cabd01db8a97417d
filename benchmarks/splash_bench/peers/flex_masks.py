"""The patterns as mask functions of (b, h, i, j), as users of FlexAttention write them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from splash_attention import patterns
from splash_attention.patterns import And, BlockMask, Causal, Full, Pattern, SlidingWindow
from splash_attention.patterns.base import Grid

from ..case import Case
from ..packed import Packed


def mask_function(pattern: Pattern, case: Case) -> tuple[Callable | None, str]:
    """The function and "", or None and why there is none."""
    if isinstance(pattern, And):
        parts = [mask_function(term, case) for term in pattern.terms]
        reasons = [reason for _, reason in parts if reason]
        if reasons:
            return None, reasons[0]
        functions = [function for function, _ in parts]

        def both(b, h, i, j):
            kept = functions[0](b, h, i, j)
            for function in functions[1:]:
                kept = kept & function(b, h, i, j)
            return kept

        return both, ""
    for kind, make in _FUNCTIONS.items():
        if isinstance(pattern, kind):
            function = make(pattern, case)
            if function is not None:
                return function, ""
    return None, f"no mask function is written for {type(pattern).__name__}"


def _window(pattern: SlidingWindow, case: Case):
    left, right = pattern.left, pattern.right
    if left is None and right is None:
        return _full(pattern, case)
    if left is None:
        return lambda b, h, i, j: j - i <= right
    if right is None:
        return lambda b, h, i, j: i - j <= left
    if right == 0:
        return lambda b, h, i, j: (i >= j) & (i - j <= left)
    return lambda b, h, i, j: (i - j <= left) & (j - i <= right)


def _full(pattern: Full, case: Case):
    return lambda b, h, i, j: j >= 0


def _causal(pattern: Causal, case: Case):
    return lambda b, h, i, j: j <= i


def _streaming(pattern, case: Case):
    sink, window = pattern.sink, pattern.window
    return lambda b, h, i, j: (j <= i) & ((j < sink) | (i - j < window))


def _block_diagonal(pattern, case: Case):
    block = pattern.block
    if pattern.causal:
        return lambda b, h, i, j: (i // block == j // block) & (j <= i)
    return lambda b, h, i, j: i // block == j // block


def _dilated(pattern, case: Case):
    window, dilation = pattern.window, pattern.dilation
    if isinstance(dilation, tuple):
        steps = torch.tensor(dilation, device=case.device)
        if pattern.causal:
            return lambda b, h, i, j: (j <= i) & ((i - j) % steps[h] == 0) & (i - j < window * steps[h])
        return lambda b, h, i, j: ((i - j) % steps[h] == 0) & ((i - j).abs() <= window * steps[h])
    reach = window * dilation
    if pattern.causal:
        return lambda b, h, i, j: (j <= i) & ((i - j) % dilation == 0) & (i - j < reach)
    return lambda b, h, i, j: ((i - j) % dilation == 0) & (i - j <= reach) & (j - i <= reach)


def _strided(pattern, case: Case):
    local, stride = pattern.local, pattern.stride
    return lambda b, h, i, j: (j <= i) & ((i - j < local) | ((i - j) % stride == 0))


def _fixed(pattern, case: Case):
    stride, first = pattern.stride, pattern.stride - pattern.summary
    return lambda b, h, i, j: (j <= i) & ((j // stride == i // stride) | (j % stride >= first))


def _longformer(pattern, case: Case):
    prefix, reach, dilation = pattern.global_tokens, pattern.window * pattern.dilation, pattern.dilation
    if not isinstance(prefix, int):
        return None

    def kept(b, h, i, j):
        near = (i - j <= reach) & (j - i <= reach) & ((i - j) % dilation == 0)
        return near | (i < prefix) | (j < prefix)

    if pattern.causal:
        return lambda b, h, i, j: kept(b, h, i, j) & (j <= i)
    return kept


def _big_bird(pattern, case: Case):
    block = pattern.block
    count = -(-case.sizes.seq_len // block)
    line = torch.arange(count, device=case.device) * block
    # The last query and the first key of each block: what these see of each other, the blocks do.
    length, columns = case.sizes.seq_len, torch.arange(case.sizes.seq_len, device=case.device)[None, :]
    rows = (line + block - 1).clamp(max=length - 1)[:, None]
    table = pattern.keep(Grid(rows, columns, rows, columns, length, case.sizes.heads))[..., line]
    table = table.reshape(-1, count, count).expand(case.sizes.heads, count, count)
    if pattern.causal:
        return lambda b, h, i, j: table[h, i // block, j // block] & (j <= i)
    return lambda b, h, i, j: table[h, i // block, j // block]


def _index_causal(pattern, case: Case):
    length = case.sizes.seq_len
    q_idx, k_idx = (t.expand(case.sizes.batch, case.sizes.heads, length) for t in (pattern.q_idx, pattern.k_idx))
    return lambda b, h, i, j: k_idx[b, h, j] <= q_idx[b, h, i]


def _packed(pattern: Packed, case: Case):
    ends = pattern.ends_on(case.device)
    positions = torch.arange(case.sizes.seq_len, device=case.device, dtype=torch.int32)
    sequence = torch.searchsorted(ends, positions, right=True)
    if pattern.causal:
        return lambda b, h, i, j: (sequence[i] == sequence[j]) & (j <= i)
    return lambda b, h, i, j: sequence[i] == sequence[j]


def _blocks(pattern: BlockMask, case: Case):
    rows, columns = pattern.block
    size = case.sizes.seq_len
    shape = case.sizes.batch, case.sizes.heads, -(-size // rows), -(-size // columns)
    mask = pattern.mask.expand(shape)
    return lambda b, h, i, j: mask[b, h, i // rows, j // columns]


_FUNCTIONS: dict[type[Pattern], Callable] = {
    Full: _full,
    Causal: _causal,
    SlidingWindow: _window,
    BlockMask: _blocks,
    patterns.Streaming: _streaming,
    patterns.BlockDiagonal: _block_diagonal,
    patterns.Dilated: _dilated,
    patterns.Strided: _strided,
    patterns.Fixed: _fixed,
    patterns.Longformer: _longformer,
    patterns.BigBird: _big_bird,
    patterns.IndexCausal: _index_causal,
    Packed: _packed,
}
