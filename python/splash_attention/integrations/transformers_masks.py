"""What Hugging Face transformers says about masks, in splash's terms: a pattern, positions and packed sequences.

transformers describes a mask by a function of indices and a 2D padding mask, and hands both to the mask function of an
attention implementation. `describe` is that function for splash. Its result goes through the model as `attention_mask`
and holds no Nq x Nk tensor, unless the mask is one that no other pattern expresses or the model computes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import masking_utils

from .._torch import assert_async
from .._values import compiling, readable
from ..patterns import BlockDiagonal, Causal, ElementMask, Full, Pattern, SlidingWindow
from .transformers_mask import Mask, Packing, is_mask


def describe(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable = masking_utils.causal_mask_function,
    attention_mask: Tensor | Mask | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **others: Any,
) -> Mask | None:
    """The mask function for AttentionMaskInterface; the arguments are those that transformers passes.

    attention_mask: (B, tokens) bool, False where a token is padding, or a Mask that generate() has had made already.
    None stands for a mask that keeps everything where the model allows it (allow_is_bidirectional_skip), never else.
    Padding between real tokens is served by an element mask; under torch.compile, which must not look at values, it
    raises RuntimeError when the compiled code runs.
    """
    if is_mask(attention_mask):
        return attention_mask
    shape = (batch_size, 1, q_length, kv_length)
    kv_lengths = None
    if isinstance(q_offset, Tensor):  # static caches count on the device, and go on counting in the same tensor
        kv_lengths = (q_offset + (q_length - kv_offset)).expand(batch_size)
        q_offset = kv_lengths[0] - (q_length - kv_offset)
    given = {"kv_offset": kv_offset, "mask_function": mask_function, "attention_mask": attention_mask}
    given |= {"use_vmap": use_vmap, "device": device, "dtype": others.get("dtype", torch.float32)}

    def dense() -> Tensor:
        sizes = {"batch_size": batch_size, "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset}
        return masking_utils.eager_mask(**sizes, **given)

    def part(first: int, rows: int, keys: int) -> Mask:
        sizes = {"batch_size": batch_size, "q_length": rows, "kv_length": keys, "q_offset": q_offset + first}
        return describe(**sizes, local_size=local_size, **others | given, allow_is_causal_skip=allow_is_causal_skip)

    make = partial(Mask, shape, k_start=kv_offset, dense=dense, part=part, dtype=given["dtype"], device=device)
    positions = {"q_start": q_offset} if kv_lengths is None else {"kv_lengths": kv_lengths}

    bidirectional = "allow_is_bidirectional_skip" in others
    if not compiling():
        kept = _read(mask_function)
    elif use_vmap:
        kept = None
    else:
        # transformers looks for several sequences in a row only where nothing else says which tokens are real.
        one_segment = allow_is_causal_skip or bidirectional or q_length != kv_length or attention_mask is not None
        kept = _guess(mask_function, shape, device, local_size, others.get("config"), bidirectional, one_segment)

    if kept is not None and kept.left is not None and kept.left < 0:  # a window of 0 keys
        return make(Full(), kv_lengths=torch.zeros(batch_size, dtype=torch.int32, device=device), origin=False)
    real = None if attention_mask is None else _columns(attention_mask, shape, kv_offset)
    whole = q_length == kv_length
    if kept is not None and kept.segments is not None and real is None and whole:
        return make(kept.pattern(), **positions, packing=_pack_segments(kept.segments))
    # A sliding cache has dropped the padding on the left, and with it where a sequence begins.
    origin = kv_offset == 0 or attention_mask is None or _is_true(attention_mask[:batch_size, 0].all())
    if kept is not None and kept.segments is None and (origin or kept.chunk is None):
        if real is None:
            unmasked = kept == _Kept() and others.get("allow_is_bidirectional_skip")
            return None if unmasked else make(kept.pattern(), **positions, origin=origin)
        free_rows = bidirectional and not whole
        absolute = kept.chunk is not None and kv_offset != 0
        span = None if absolute or (free_rows and kept.left is not None) else _span(real)
        if span is not None:
            return make(
                kept.pattern(),
                **positions,
                packing=None if free_rows else _pack(*span, shape, q_offset - kv_offset),
                key_packing=_pack(*span, shape, None) if kept == _Kept() else None,
                origin=kv_offset == 0,
            )
    scores = masking_utils.sdpa_mask(
        *(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask),
        allow_is_causal_skip=False,
        use_vmap=use_vmap,
        device=device,
    )
    return make(ElementMask(scores), **positions, origin=origin and real is None)


class _Kept(NamedTuple):
    """i - left <= j <= i + right (None: unlimited), both in one chunk counted from the first real token, and in one
    segment. segments: (B, N), the same number for neighbours of one segment.
    """

    left: int | None = None
    right: int | None = None
    chunk: int | None = None
    segments: Tensor | None = None

    def pattern(self) -> Pattern:
        if self.chunk is not None:
            return BlockDiagonal(self.chunk, causal=True)
        if self.left is not None:
            return SlidingWindow(self.left, self.right)
        return Full() if self.right is None else Causal()


# Functions that masking_utils makes are recognised by their code.
_AND = masking_utils.and_masks(masking_utils.causal_mask_function).__code__
_SLIDING = masking_utils.sliding_window_overlay(1).__code__
_NEAR = masking_utils.sliding_window_bidirectional_overlay(1).__code__
_CHUNKED = masking_utils.chunked_overlay(1, torch.zeros(1)).__code__
_SEGMENTS = masking_utils.packed_sequence_mask_function(torch.zeros(1, 1)).__code__
_REMAPPED = masking_utils.remap_positions_for_packed_sequence(lambda *_: True, torch.zeros(1, 1)).__code__


def _read(mask_function: Callable) -> _Kept | None:
    """What a mask function keeps, from its parts and what they close over; None where a part is unknown."""
    kept = _Kept()
    for part in _parts(mask_function):
        code = getattr(part, "__code__", None)
        if part is masking_utils.causal_mask_function:
            kept = kept._replace(right=0)
        elif code is _SLIDING:
            kept = kept._replace(left=_variable(part, "sliding_window") - 1)
        elif code is _NEAR and kept == _Kept():
            kept = _Kept(_variable(part, "sliding_window"), _variable(part, "sliding_window"))
        elif code is _CHUNKED:
            kept = kept._replace(chunk=_variable(part, "chunk_size"))
        elif code is _SEGMENTS:
            kept = kept._replace(segments=_variable(part, "packed_sequence_mask"))
        elif part is not masking_utils.bidirectional_mask_function:
            return None
    alone = kept.chunk is None or (kept.left is None and kept.right == 0 and kept.segments is None)
    return kept if alone else None


def _parts(mask_function: Callable) -> Iterator[Callable]:
    code = getattr(mask_function, "__code__", None)
    if code is _AND:
        for part in _variable(mask_function, "mask_functions"):
            yield from _parts(part)
    elif code is _REMAPPED:  # positions rise by 1 in a segment, so differences are those of the indices
        yield from _parts(_variable(mask_function, "mask_function"))
    else:
        yield mask_function


def _variable(function: Callable, name: str) -> Any:
    return function.__closure__[function.__code__.co_freevars.index(name)].cell_contents


def _guess(
    mask_function: Callable,
    shape: tuple[int, int, int, int],
    device: torch.device | str,
    local_size: int | None,
    config: Any,
    bidirectional: bool,
    one_segment: bool,
) -> _Kept | None:
    """What _read() says, for torch.compile, which cannot see what functions close over.

    The function's code and the other arguments leave one possibility, which is asserted at the edges when the compiled
    code runs. Whether neighbours are in one segment is asked of the function itself.
    """
    if mask_function is masking_utils.causal_mask_function:
        return _Kept(right=0)
    if mask_function is masking_utils.bidirectional_mask_function:
        return _Kept()
    window, chunk = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    named = not bidirectional if local_size is None else local_size == window and local_size != chunk
    if mask_function.__code__ is not _AND or not named:
        return None
    left = None if local_size is None else local_size - 1
    kept = _Kept(local_size, local_size) if bidirectional else _Kept(left, 0)
    if left == -1 and not bidirectional:
        return kept

    batch, _, queries, _ = shape
    rows = torch.arange(queries, device=device)[None]
    entries = torch.arange(batch, device=device)[:, None]

    def keeps(step: int) -> Tensor:
        """(B, Nq) bool: whether row i keeps column i + step; False outside."""
        columns = rows + step
        inside = (columns >= 0) & (columns < queries)
        return mask_function(entries, torch.zeros_like(rows), rows, columns.clamp(0, queries - 1)) & inside

    inside, outside, joined = keeps(0), keeps(kept.right + 1), keeps(-1)
    if kept.left is not None:
        outside = outside | keeps(-kept.left - 1)
    if one_segment and kept.left != 0:
        inside = inside & (joined | (rows == 0))
    require(inside.all() & ~outside.any(), "attention_mask: the mask function is not what its arguments say")
    return kept if one_segment else kept._replace(segments=(~joined).cumsum(1).expand(batch, queries))


def _is_true(condition: Tensor) -> bool:
    """Whether the condition is known to hold, which it never is while a graph is made."""
    return readable(condition) and bool(condition)


def require(condition: Tensor, text: str) -> bool:
    """Whether the condition holds. In a graph True; the code made of it raises RuntimeError where it fails."""
    if readable(condition):
        return bool(condition)
    assert_async(condition, text)
    return True


def _columns(attention_mask: Tensor, shape: tuple[int, int, int, int], kv_offset: int) -> Tensor | None:
    """(B, Nk) bool: which of the keys are real tokens; None where all are."""
    batch, _, _, keys = shape
    known = attention_mask[:batch, kv_offset : kv_offset + keys]  # more rows stand for codebooks: the first ones count
    real = torch.nn.functional.pad(known, (0, keys - known.shape[1])).expand(batch, keys)
    return None if _is_true(real.all()) else real


def _span(real: Tensor) -> tuple[Tensor, Tensor] | None:
    """(B,) first real tokens and the ends after the last, 0 and 0 without any. None where padding lies between them."""
    index = torch.arange(real.shape[1], device=real.device)
    first = torch.where(real, index, real.shape[1]).amin(1)
    end = torch.where(real, index + 1, 0).amax(1)
    first = torch.minimum(first, end)
    whole = (real.sum(1) == end - first).all()
    return (first, end) if require(whole, "attention_mask: padding between real tokens needs eager mode") else None


def _pack(first: Tensor, end: Tensor, shape: tuple[int, int, int, int], diagonal: int | Tensor | None) -> Packing:
    """Row r stands at column diagonal + r and is as real as that; with diagonal None all rows are real."""
    batch, _, rows, keys = shape
    none = torch.zeros_like(first)
    if diagonal is None:
        first_row, end_row = none, none + rows
    else:
        end = end.clamp(max=diagonal + rows)
        first = torch.minimum(first, end)
        first_row, end_row = ((column - diagonal).clamp(0, rows) for column in (first, end))
    entry = torch.arange(batch, device=first.device)[:, None]
    # Per entry: padding before the real rows and the real keys, what is real, padding after the rows and the keys.
    row_ends = torch.stack((first_row, first_row, end_row, none + rows, none + rows), 1) + entry * rows
    key_ends = torch.stack((none, first, end, end, none + keys), 1) + entry * keys
    return Packing(_cumulative(row_ends), _cumulative(key_ends), rows, keys)


def _pack_segments(segments: Tensor) -> Packing:
    """(B, N) numbers, where a change begins a new sequence, as each row of the batch does."""
    batch, length = segments.shape
    begins = torch.nn.functional.pad(segments.diff(dim=1) != 0, (1, 0), value=True).flatten()
    total = torch.full((1,), batch * length, device=segments.device)
    if not readable(begins):  # as many sequences as there could be, most of them empty
        index = torch.arange(batch * length, device=segments.device)
        ends = torch.cat((torch.where(begins, index, total).sort().values[1:], total))
        longest = length
    else:
        ends = torch.cat((begins.nonzero()[1:, 0], total))
        longest = int(ends.diff(prepend=torch.zeros_like(total)).max())
    cu_seqlens = _cumulative(ends)
    return Packing(cu_seqlens, cu_seqlens, longest, longest)


def _cumulative(ends: Tensor) -> Tensor:
    return torch.nn.functional.pad(ends.flatten(), (1, 0)).to(torch.int32)
