"""longnet_attention as one operator, for graphs: its parts are dozens of operations whose sizes are long formulas of N.

The operator keeps the parts' outputs and statistics for the backward, each in one line, since the number of parts
depends on N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _fakes
from ._errors import NoKernelError, translate
from ._longnet_parts import count
from .patterns.opaque import free_size, register_one_by_one


def longnet_operator(q, k, v, lengths, segments, causal, scale, deterministic) -> Tensor:
    """longnet_attention of checked arguments."""
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = (t if t.dtype is torch.float64 else t.to(dtype) for t in (q, k, v))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    deterministic = torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic
    numbers = [number for pair in segments for number in pair]
    return torch.ops.splash.longnet(q, k, v, lengths, numbers, causal, scale, deterministic)[0]


@torch.library.register_fake("splash::longnet")
def _(q, k, v, lengths, segments, causal, scale, deterministic):
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _fakes.check_tensor(name, tensor, q.device)
    batch, heads, tokens, dim = q.shape
    total = sum(
        -(-(heads - first) // r) * count(w, r, first, tokens)
        for w, r in zip(segments[::2], segments[1::2], strict=True)
        for first in range(min(r, heads))
    )
    outs = q.new_empty(free_size(batch * total * dim))
    return q.new_empty(q.shape), outs, q.new_empty(free_size(batch * total), dtype=_fakes.statistic_dtype(q))


@torch.library.register_fake("splash::longnet_backward")
def _(grad, q, k, v, outs, rows, lengths, segments, causal, scale, deterministic):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (q, k, v))


def _setup(ctx, inputs, output):
    q, k, v, lengths, *ctx.numbers = inputs
    _, outs, rows = output
    ctx.save_for_backward(q, k, v, lengths, outs, rows)


def _derivative(ctx, grad, of_outs, of_rows):
    q, k, v, lengths, outs, rows = ctx.saved_tensors
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
