"""Entmax and sparsemax along one dimension of a tensor, with gradients: `entmax`, `entmax15`, `sparsemax`."""

from __future__ import annotations

import torch
from torch import Tensor

from ._autograd import Function, as_kernel, forward_mode_on
from ._dtypes import autocast_dtype
from ._errors import translate
from ._torch import primal
from ._vmap import batching_rule

_HALF = (torch.float16, torch.bfloat16)
_FLOATING = (*_HALF, torch.float32, torch.float64)
_forward = torch.ops.splash.entmax_forward.default
_backward = torch.ops.splash.entmax_backward.default
_library = torch.library.Library("splash", "IMPL")


def entmax(x: Tensor, alpha: float = 1.5, dim: int = -1) -> Tensor:
    """alpha-entmax along one dimension: weights that sum to 1, exactly zero for all but the largest entries.

    p = [(alpha - 1) x - tau]+ ^ (1 / (alpha - 1)), with tau such that the weights sum to 1. Exact at any magnitude.

    Args:
        x: scores, of any shape and strides; float16, bfloat16, float32 or float64. Sums are float32 (float64 for
            float64).
        alpha: a number from 1.01 to 2; 2 is sparsemax. 1 is `torch.softmax`, and computed by it.
        dim: the dimension to normalize, -x.ndim <= dim < x.ndim.

    Returns:
        The weights: contiguous, with the shape, dtype and device of x. An entry of -inf has weight 0, and a row of
        nothing but -inf has weights 0 (NaN with alpha 1, as in Torch). A NaN or +inf makes its whole row NaN.

    Under autocast the result is float32 (float64 for float64), as that of `torch.softmax` on CUDA. The gradient is that
    of the paper, with u = p^(2 - alpha) on the support: u (g - sum(u g) / sum(u)). It can be differentiated again, and
    there are derivatives in forward mode.

    Raises:
        ValueError: alpha or dim is out of range.
        TypeError: x is not floating-point, or alpha is no number.
        NoKernelError: x is on a CUDA device that this build has no kernels for.

    Source: Peters, Niculae & Martins, "Sparse Sequence-to-Sequence Models", ACL 2019.
    """
    _check(x, dim)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f"alpha is {alpha!r}; expected a number: 1, or from 1.01 to 2")
    if alpha == 1:
        lower = autocast_dtype(x.device) is not None and x.dtype in _HALF
        return torch.softmax(x, dim, dtype=torch.float32 if lower else None)
    if not 1.01 <= alpha <= 2:
        raise ValueError(f"alpha is {alpha}; expected 1, or a number from 1.01 to 2")
    try:
        return _forward(x, float(alpha), dim)
    except RuntimeError as error:
        raise translate(error) from None


def sparsemax(x: Tensor, dim: int = -1) -> Tensor:
    """Sparsemax along one dimension: the point of the probability simplex that is nearest to x; `entmax` at alpha 2.

    Shapes, dtypes and errors: see `entmax`.

    Source: Martins & Astudillo, "From Softmax to Sparsemax: A Sparse Model of Attention and Multi-Label
    Classification", ICML 2016.
    """
    return entmax(x, 2.0, dim)


def entmax15(x: Tensor, dim: int = -1) -> Tensor:
    """1.5-entmax along one dimension: p = [x / 2 - tau]+ ^ 2; `entmax` at alpha 1.5.

    Shapes, dtypes and errors: see `entmax`.

    Source: Peters, Niculae & Martins, "Sparse Sequence-to-Sequence Models", ACL 2019.
    """
    return entmax(x, 1.5, dim)


def _check(x: Tensor, dim: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x is {type(x).__name__}; expected a Tensor")
    if x.dtype not in _FLOATING:
        raise TypeError(f"x has dtype {x.dtype}; expected float16, bfloat16, float32 or float64")
    if x.layout is not torch.strided:
        raise TypeError(f"x has layout {x.layout}; expected a dense tensor")
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim is {dim!r}; expected an int")
    rank = max(x.ndim, 1)
    if not -rank <= dim < rank:
        raise ValueError(f"dim is {dim}; x has {x.ndim} dimensions, so {-rank} to {rank - 1} are allowed")


@torch.library.register_fake("splash::entmax_forward")
def _(x, alpha, dim):
    return x.new_empty(x.shape)


@torch.library.register_fake("splash::entmax_backward")
def _(grad, p, alpha, dim):
    return p.new_empty(p.shape)


class _Forward(Function):
    entry = "entmax"

    @staticmethod
    def forward(lower, x, alpha, dim):
        return lower(_forward, x, alpha, dim)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, _, ctx.alpha, ctx.dim = inputs
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx, grad):
        (p,) = ctx.saved_tensors
        try:
            return None, _backward(grad, p, ctx.alpha, ctx.dim), None, None
        except RuntimeError as error:
            raise translate(error) from None

    @staticmethod
    def jvp(ctx, _, tangent, *others):
        """The Jacobian is symmetric."""
        with forward_mode_on():
            return _Forward.backward(ctx, tangent)[1]


class _Backward(Function):
    """With D(g) = g - sum(u g) / sum(u), the result u D(grad) is linear in grad and symmetric, and its derivative by u
    is D(grad) D(outer); u = p^(2 - alpha)."""

    entry = "entmax"

    @staticmethod
    def forward(lower, grad, p, alpha, dim):
        return lower(_backward, grad, p, alpha, dim)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, grad, p, ctx.alpha, ctx.dim = inputs
        ctx.save_for_backward(grad, p)
        ctx.save_for_forward(grad, p)

    @staticmethod
    def backward(ctx, outer):
        row = _Row(*ctx.saved_tensors, ctx.alpha, ctx.dim)
        d_outer = row.centred(outer)
        return None, row.u * d_outer, row.slope * row.centred(row.grad) * d_outer, None, None

    @staticmethod
    def jvp(ctx, _, of_grad, of_p, *others):
        with forward_mode_on():
            row = _Row(*(primal(t) for t in ctx.saved_tensors), ctx.alpha, ctx.dim)
            result = torch.zeros_like(row.u)
            if of_grad is not None:
                result = row.u * row.centred(of_grad)
            if of_p is not None:
                bent = row.slope * of_p * row.centred(row.grad)
                result = result + bent - row.u * bent.sum(ctx.dim, keepdim=True) / row.mass
            return result


class _Row:
    """What derivatives of the gradient read: u and its derivative by p, both 0 off the support."""

    def __init__(self, grad: Tensor, p: Tensor, alpha: float, dim: int):
        self.grad, self.dim, self.support = grad, dim, p > 0
        base = torch.where(self.support, p, 1)
        self.u = torch.where(self.support, base ** (2 - alpha), 0)
        self.slope = torch.where(self.support, (2 - alpha) * base ** (1 - alpha), 0)
        mass = self.u.sum(dim, keepdim=True)
        self.mass = torch.where(mass > 0, mass, 1)

    def centred(self, g: Tensor) -> Tensor:
        """g minus its mean, weighted by u."""
        g = torch.where(self.support, g, 0)
        return g - (self.u * g).sum(self.dim, keepdim=True) / self.mass


_library.impl("entmax_forward", as_kernel(_Forward), "Autograd", with_keyset=True)
_library.impl("entmax_backward", as_kernel(_Backward), "Autograd", with_keyset=True)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("splash::entmax_forward", _device, torch.float32)


def _in_front(x: Tensor, mapped: int | None, size: int) -> Tensor:
    """The mapped dimension in front; a number an entry becomes a row of one."""
    x = x.expand(size, *x.shape) if mapped is None else x.movedim(mapped, 0)
    return x if x.ndim > 1 else x.unsqueeze(-1)


@batching_rule("entmax_forward")
def _(info, in_dims, x, alpha, dim):
    p = _forward(_in_front(x, in_dims[0], info.batch_size), alpha, dim if dim < 0 else dim + 1)
    return p.reshape(x.movedim(in_dims[0], 0).shape), 0


@batching_rule("entmax_backward")
def _(info, in_dims, grad, p, alpha, dim):
    grad, p = (_in_front(t, at, info.batch_size) for t, at in zip((grad, p), in_dims[:2], strict=True))
    grad_x = _backward(grad, p, alpha, dim if dim < 0 else dim + 1)
    return grad_x, 0
