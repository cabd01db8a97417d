"""The functions of adasplash 0.2 and flash-lazy-attention, computed by splash.

Signatures and defaults are theirs. Where they approximate entmax in a number of iterations (niter, n_iter), from a
histogram (use_histogram) or with fast_math, these arguments are accepted and change nothing: the result is always
exact. What they refuse and splash can do works: any sequence length, head dimension and strides, grouped queries,
float64, the CPU.

Sources: AdaSplash (Gonçalves, Treviso & Martins 2025), AdaSplash-2 (arXiv:2604.15180).
"""

from __future__ import annotations

from torch import Tensor

from ..attention import attention
from ..modules import LazyAttention
from ..normalizers import Elastic, Entmax
from ..patterns import Causal, Full
from ..rows import entmax

__all__ = [
    "LazyAttention",
    "adasplash",
    "adasplash2",
    "adasplash_no_block_mask",
    "adasplash_v1",
    "adasplash_v2",
    "lazy_attention_triton",
    "triton_entmax",
    "triton_entmax15",
    "triton_entmax_v1",
    "triton_entmax_v2",
    "triton_sparsemax",
]


def adasplash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: float = 1.5,
    is_causal: bool = True,
    varlen: Tensor | None = None,
    niter: int | None = None,
) -> Tensor:
    """alpha-entmax attention: q (B, Hq, N, D), k and v (B, Hkv, N, D) to (B, Hq, N, D), in the dtype of q.

    alpha: 1.01 to 2, or 1 for softmax. is_causal: keys after the query are left out. varlen: (B,) int32 or int64, the
    lengths of right-padded sequences; output rows from there on are 0 and give no gradient. niter: has no effect.

    Raises ValueError (shapes, ranges), TypeError (dtypes) and NoKernelError (nothing compiled for it).
    """
    return attention(q, k, v, Causal() if is_causal else Full(), Entmax(alpha), lengths=varlen)


def adasplash_v1(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: float = 1.5,
    is_causal: bool = False,
    varlen: Tensor | None = None,
    niter: int = 10,
) -> Tensor:
    """adasplash() with the defaults of version 1: every key is seen."""
    return adasplash(q, k, v, alpha, is_causal, varlen)


adasplash_no_block_mask = adasplash_v1
"""Upstream's other name for it; splash has no block mask to leave out."""


def adasplash_v2(q: Tensor, k: Tensor, v: Tensor, niter: int = 1, varlen: Tensor | None = None) -> Tensor:
    """adasplash() with alpha 1.5 and causal, as version 2 has it."""
    return adasplash(q, k, v, varlen=varlen)


adasplash2 = adasplash_v2


def lazy_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    tau: Tensor,
    window_size: int | None = 512,
    varlen: Tensor | None = None,
) -> Tensor:
    """Causal attention with Elastic(tau, bias): q (B, Hq, N, D), k and v (B, Hkv, N, D) to (B, Hq, N, D).

    bias: (Hq, window_size) or (Hq, window_size + 1), added to the scores at distance 0, 1, ...; later distances have
    none. tau: (Hq,). Both are computed with in float32 (float64 for float64) and learn. window_size: None takes what
    bias has. varlen: (B,), the lengths of right-padded sequences; output rows from there on are 0.

    Raises ValueError (shapes, ranges), TypeError (dtypes) and NoKernelError (nothing compiled for it).
    """
    if bias is None:  # which Elastic takes
        raise TypeError("bias: expected a tensor (Hq, distances), got NoneType")
    normalizer = Elastic(tau, bias)
    if window_size is not None and bias.shape[1] not in (window_size, window_size + 1):
        raise ValueError(
            f"bias: expected {window_size} or {window_size + 1} distances for window_size {window_size}, "
            f"got shape {tuple(bias.shape)}"
        )
    return attention(q, k, v, Causal(), normalizer, lengths=varlen)


def triton_entmax(
    x: Tensor, alpha: float = 1.5, n_iter: int = 2, use_histogram: bool = True, fast_math: bool = False
) -> Tensor:
    """alpha-entmax over the last dimension of x (..., n), in its shape and dtype.

    alpha: 1.01 to 2, or 1 for softmax. n_iter, use_histogram, fast_math: have no effect.
    Raises ValueError (ranges) and TypeError (dtypes).
    """
    return entmax(x, alpha, -1)


def triton_entmax_v1(x: Tensor, alpha: float = 1.5, n_iter: int = 10, fast_math: bool = True) -> Tensor:
    """triton_entmax() with the arguments of version 1."""
    return entmax(x, alpha, -1)


triton_entmax_v2 = triton_entmax


def triton_sparsemax(x: Tensor, *, n_iter: int = 2, use_histogram: bool = True, fast_math: bool = False) -> Tensor:
    """triton_entmax() at alpha 2."""
    return entmax(x, 2.0, -1)


def triton_entmax15(x: Tensor, *, n_iter: int = 2, use_histogram: bool = True, fast_math: bool = False) -> Tensor:
    """triton_entmax() at alpha 1.5."""
    return entmax(x, 1.5, -1)
