"""longnet_attention as one operator, for graphs: its parts are dozens of operations whose sizes are long formulas of N.

Both directions run what the untraced function runs. Between them they keep the parts' outputs and statistics, those of
a branch in one line, since the number of parts depends on N.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor

from . import ops
from ._errors import NoKernelError, translate
from ._longnet_mix import longnet_mix
from ._longnet_parts import Part, count, key_heads, mix_numbers, parts_of, put_back
from .normalizers import Softmax
from .patterns.opaque import free_size, register_one_by_one

_OPTIONS = "Tensor? lengths, int[] segments, bool causal, float scale, bool deterministic"


def longnet_operator(q, k, v, lengths, segments, causal, scale, deterministic) -> Tensor:
    """longnet_attention of checked arguments."""
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = (t if t.dtype is torch.float64 else t.to(dtype) for t in (q, k, v))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    deterministic = torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic
    numbers = [number for pair in segments for number in pair]
    return torch.ops.splash.longnet(q, k, v, lengths, numbers, causal, scale, deterministic)[0]


def _branches(segments: list[int], q: Tensor, k: Tensor, lengths: Tensor | None) -> list[tuple[Part, ...]]:
    return [parts_of((pair,), q, k, lengths) for pair in zip(segments[::2], segments[1::2], strict=True)]


class _Call(NamedTuple):
    """Of one part: the axis of its residues, the sizes that are one there, and the arguments of the operators."""

    axis: int
    sizes: torch.Size
    qkv: list[Tensor]
    problem: ops.Problem


def _calls(parts, q, k, v, lengths, causal, scale, deterministic) -> Iterator[_Call]:
    for part in parts:
        axis, heads = part.axis(lengths), key_heads(part, q.shape[1], k.shape[1])
        taken = [part.take(tensor, own) for tensor, own in ((q, None), (k, heads), (v, heads))]
        normalizer, floats, parameters = Softmax().encode()
        problem = ops.make_problem(
            pattern="block_diagonal", pattern_ints=[part.per_segment, int(causal)], pattern_tensors=[],
            normalizer=normalizer, normalizer_floats=floats, normalizer_parameters=parameters,
            lengths=None if lengths is None else part.lengths(lengths), scale=scale, deterministic=deterministic,
        )  # fmt: skip
        yield _Call(axis, taken[0].shape[axis : axis + 2], [t.flatten(axis, axis + 1) for t in taken], problem)


def _statistic(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype is torch.float64 else torch.float32


@torch.library.custom_op(
    "splash::longnet",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor out, Tensor[] outs, Tensor[] rows)",
)
@torch.no_grad()
def _forward(q, k, v, lengths, segments, causal, scale, deterministic):
    branches = _branches(segments, q, k, lengths)
    parts = tuple(chain.from_iterable(branches))
    outs, rows = [], []
    for axis, sizes, qkv, problem in _calls(parts, q, k, v, lengths, causal, scale, deterministic):
        out, row, _ = ops.forward(*qkv, problem, False, False)
        outs.append(out.unflatten(axis, sizes))
        rows.append(row.unflatten(axis, sizes))
    mixed = longnet_mix(outs, rows, mix_numbers(parts), *q.shape[1:3]) if parts else q.new_zeros(q.shape)
    return mixed, _lines(branches, outs, q.new_empty(0)), _lines(branches, rows, q.new_empty(0, dtype=_statistic(q)))


@_forward.register_fake
def _(q, k, v, lengths, segments, causal, scale, deterministic):
    batch, heads, tokens, dim = q.shape
    outs, rows = [], []
    for w, r in zip(segments[::2], segments[1::2], strict=True):
        total = sum(-(-(heads - first) // r) * count(w, r, first, tokens) for first in range(min(r, heads)))
        outs.append(q.new_empty(free_size(batch * total * dim)))
        rows.append(q.new_empty(free_size(batch * total), dtype=_statistic(q)))
    return q.new_empty(q.shape), outs, rows


@torch.library.custom_op(
    "splash::longnet_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor[] outs, Tensor[] rows, {_OPTIONS}) "
    "-> (Tensor, Tensor, Tensor)",
)
@torch.no_grad()
def _backward(grad, q, k, v, outs, rows, lengths, segments, causal, scale, deterministic):
    branches = _branches(segments, q, k, lengths)
    parts = tuple(chain.from_iterable(branches))
    if not parts:
        return tuple(torch.zeros_like(tensor) for tensor in (q, k, v))
    calls = list(_calls(parts, q, k, v, lengths, causal, scale, deterministic))
    shapes = [call.qkv[0].unflatten(call.axis, call.sizes).shape for call in calls]
    outs = _unlines(branches, outs, shapes)
    rows = _unlines(branches, rows, [shape[:-1] for shape in shapes])
    gradients = []
    by_part = torch.ops.splash.longnet_mix_backward(grad, rows, mix_numbers(parts))
    for (axis, sizes, qkv, problem), out, row, of_out in zip(calls, outs, rows, by_part, strict=True):
        of_out, out, row = (tensor.flatten(axis, axis + 1) for tensor in (of_out, out, row))
        saved = row.new_empty((0, *row.shape))
        *own, _ = torch.ops.splash.attention_backward(of_out, None, *qkv, out, row, saved, *problem)
        gradients.append([tensor.unflatten(axis, sizes) for tensor in own])
    heads = (None,) * len(parts), *(tuple(key_heads(part, q.shape[1], k.shape[1]) for part in parts),) * 2
    columns = zip(heads, zip(*gradients, strict=True), (q, k, v), strict=True)
    return tuple(put_back(parts, chosen, column, like.shape).contiguous() for chosen, column, like in columns)


@_backward.register_fake
def _(grad, q, k, v, outs, rows, lengths, segments, causal, scale, deterministic):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (q, k, v))


def _lines(branches: list[tuple[Part, ...]], kept: list[Tensor], none: Tensor) -> list[Tensor]:
    """One line a branch, of what its parts keep."""
    kept = iter(kept)
    lines = [[tensor.flatten() for tensor in islice(kept, len(parts))] for parts in branches]
    return [torch.cat(line) if len(line) > 1 else line[0] if line else none.clone() for line in lines]


def _unlines(branches: list[tuple[Part, ...]], lines: list[Tensor], shapes: list[torch.Size]) -> list[Tensor]:
    """What _lines() joined."""
    shapes = iter(shapes)
    kept = []
    for parts, line in zip(branches, lines, strict=True):
        own = list(islice(shapes, len(parts)))
        pieces = line.split([shape.numel() for shape in own])
        kept += [piece.view(shape) for piece, shape in zip(pieces, own, strict=True)]
    return kept


def _setup(ctx, inputs, output):
    q, k, v, lengths, *ctx.numbers = inputs
    _, outs, rows = output
    ctx.count = len(outs)
    ctx.save_for_backward(q, k, v, lengths, *outs, *rows)


def _derivative(ctx, grad, of_outs, of_rows):
    q, k, v, lengths, *lines = ctx.saved_tensors
    outs, rows = lines[: ctx.count], lines[ctx.count :]
    try:
        gradients = torch.ops.splash.longnet_backward(grad, q, k, v, outs, rows, lengths, *ctx.numbers)
    except RuntimeError as error:
        raise translate(error) from None
    return *gradients, *[None] * 5


def _no_second(ctx, *gradients):
    raise NoKernelError("longnet_attention: second derivatives have no kernels")


torch.library.register_autograd("splash::longnet", _derivative, setup_context=_setup)
torch.library.register_autograd("splash::longnet_backward", _no_second)
for _name in ("longnet", "longnet_backward"):
    register_one_by_one(_name)
