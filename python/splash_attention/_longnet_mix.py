"""What Torch needs to know about torch.ops.splash.longnet_mix beside its kernels: fakes, autograd and vmap.

outs: of each part (B, R, G, T, D), unit stride along D, 16 bits wide or float32 (on the CPU float64, too). lses:
of each (B, R, G, T), float32 (float64 for float64). parts: three ints a part: w, r and its first residue f. Entry
(b, i, g, t) is the head f + i + r * g at token t of those that the branch (w, r) of longnet_attention gives to it.
The result is (B, heads, tokens, D): of each token of a head the sum of its rows in the parts that have it, weighted in
proportion to exp(lse); 0 where none has it, or where lse is -inf in all of them. No gradient goes to lse.
"""

from __future__ import annotations

import torch

from ._autograd import Function, as_kernel
from ._errors import translate
from ._vmap import batching_rule, fold_batch

_mix = torch.ops.splash.longnet_mix.default
_split = torch.ops.splash.longnet_mix_backward.default
_library = torch.library.Library("splash", "IMPL")


def longnet_mix(outs, lses, parts, heads, tokens):
    """The operator; raises what it means."""
    try:
        return _mix(outs, lses, parts, heads, tokens)
    except RuntimeError as error:
        raise translate(error) from None


@torch.library.register_fake("splash::longnet_mix")
def _(outs, lses, parts, heads, tokens):
    return outs[0].new_empty((outs[0].shape[0], heads, tokens, outs[0].shape[4]))


@torch.library.register_fake("splash::longnet_mix_backward")
def _(grad, lses, parts):
    return [grad.new_empty((*lse.shape, grad.shape[3])) for lse in lses]


class _Mix(Function):
    """Autograd does not look into lists, so each of the outs is an argument of its own."""

    entry = "longnet_attention"

    @staticmethod
    def forward(lower, lses, parts, heads, tokens, *outs):
        return lower(_mix, list(outs), lses, parts, heads, tokens)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, lses, ctx.parts, *_ = inputs
        ctx.save_for_backward(*lses)

    @staticmethod
    def backward(ctx, grad):
        try:
            return None, None, None, None, None, *_split(grad, list(ctx.saved_tensors), ctx.parts)
        except RuntimeError as error:
            raise translate(error) from None

    @staticmethod
    def jvp(ctx, *tangents):
        raise _Mix.no_forward_mode()


class _Split(Function):
    """The backward as an operator of its own, without derivatives."""

    entry = "longnet_attention"

    @staticmethod
    def forward(lower, grad, parts, *lses):
        return tuple(lower(_split, grad, list(lses), parts))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise _Split.no_second()

    @staticmethod
    def jvp(ctx, *tangents):
        raise _Split.no_forward_mode()


_run_mix, _run_split = as_kernel(_Mix), as_kernel(_Split)


def _mix_kernel(keyset, outs, lses, parts, heads, tokens):
    return _run_mix(keyset, lses, parts, heads, tokens, *outs)


def _split_kernel(keyset, grad, lses, parts):
    return list(_run_split(keyset, grad, parts, *lses))


_library.impl("longnet_mix", _mix_kernel, "Autograd", with_keyset=True)
_library.impl("longnet_mix_backward", _split_kernel, "Autograd", with_keyset=True)


@batching_rule("longnet_mix")
def _(info, in_dims, outs, *others):
    fold = fold_batch(info, outs[0], in_dims[0][0])
    return fold.undo(_mix(*fold.all((outs, *others), in_dims))), 0


@batching_rule("longnet_mix_backward")
def _(info, in_dims, grad, *others):
    fold = fold_batch(info, grad, in_dims[0])
    gradients = _split(*fold.all((grad, *others), in_dims))
    return [fold.undo(gradient) for gradient in gradients], [0] * len(gradients)
