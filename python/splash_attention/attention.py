"""The public functions: attention, prepare and merge."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _checks
from ._errors import translate
from .normalizers import Normalizer, Softmax, as_normalizer
from .patterns import Extent, Full, Pattern, Prepared, as_pattern

_FULL = Full()
_SOFTMAX = Softmax()


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | str = _FULL,
    normalizer: Normalizer | str | float = _SOFTMAX,
    *,
    scale: float | None = None,
    lengths: Tensor | None = None,
    kv_lengths: Tensor | None = None,
    q_start: int | None = None,
    k_start: int = 0,
    return_statistic: bool = False,
    deterministic: bool | None = None,
    validate: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """out = P v, where P are the weights that `normalizer` makes of the scores scale * q.k that `pattern` keeps.

    q: (B, Hq, Nq, D). k, v: (B, Hkv, Nk, D); query head h reads head h // (Hq / Hkv). float16, bfloat16 or float32, on
        the CPU float64 too; any strides with a unit last one. Under autocast they are cast as SDPA's are.
    pattern: of splash_attention.patterns, a result of prepare(), or "full", "causal".
    normalizer: of splash_attention.normalizers, or "softmax", or a number alpha for Entmax(alpha).
    scale: 1 / sqrt(D) by default.
    lengths: (B,) int32 or int64, for right-padded batches (Nq = Nk): keys at positions >= length are masked, output
        rows there are 0 and give no gradient.
    kv_lengths: (B,) int32 or int64, for queries against a padded cache: keys from there on are masked and the last
        query stands at the last key that is left.
    q_start, k_start: positions of the first query and the first key; q_start = k_start + Nk - Nq by default.
    return_statistic: also return the normalizer's statistic, (B, Hq, Nq) float32 (float64 for float64), differentiable.
    deterministic: True asks for a backward that repeats bit for bit, None follows
        torch.are_deterministic_algorithms_enabled(). Every backward kernel of this version is deterministic.
    validate: also check values inside CUDA tensors, which synchronises. Outside of torch.compile those of CPU tensors
        are always checked; kernels clamp them in any case.

    Returns out (B, Hq, Nq, D) in the dtype of q, and the statistic where asked for. A row that keeps no key is 0.

    Raises ValueError (shapes, ranges, senseless combinations), TypeError (dtypes) and NoKernelError (nothing compiled
    for it). Softmax: Dao et al. 2022; entmax: Peters, Niculae & Martins 2019.
    """
    if not isinstance(pattern, Pattern):
        pattern = as_pattern(pattern)
    if not isinstance(normalizer, Normalizer):
        normalizer = as_normalizer(normalizer)
    _checks.check_inputs(q, k, v)
    batch, heads, Nq, dim = q.shape
    Nk = k.shape[2]
    lengths, kv_lengths = _checks.check_lengths(lengths, kv_lengths, q, Nk, q_start, k_start, validate)
    q_start = _checks.check_positions(Nq, Nk, q_start, k_start)
    scale = dim**-0.5 if scale is None else _checks.check_scale(scale)
    encoded = pattern.encode(Extent(batch, heads, Nq, Nk, q.device, k_start=k_start, backward=_needs_gradient(q, k, v)))
    name, numbers = normalizer.encode()
    try:
        out, statistic, _ = torch.ops.splash.attention_forward.default(
            q, k, v, *encoded, name, numbers, lengths, kv_lengths, q_start, k_start, scale
        )
    except RuntimeError as error:
        raise translate(error) from None
    return (out, statistic) if return_statistic else out


def prepare(pattern: Pattern | str, q: Tensor, k: Tensor, backward: bool = True) -> Prepared:
    """The pattern with its metadata for tensors like q and k built once; it goes wherever a pattern goes.

    q: (B, Hq, Nq, D), k: (B, Hkv, Nk, D), of which only shapes and device matter. backward: also build what the
    backward reads; ValueError later where it was left out and a gradient is asked for. Built on the device, without
    synchronisation. Later changes of a mask's values are not seen.
    """
    pattern = as_pattern(pattern)
    _checks.check_inputs(q, k, k)
    extent = Extent(*q.shape[:3], k.shape[2], q.device, backward=backward)
    return Prepared(pattern, pattern.encode(extent), extent)


def merge(o1: Tensor, lse1: Tensor, o2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention over the union of two disjoint sets of keys, from the results over each.

    o1, o2: (..., D) outputs, one shape and dtype. lse1, lse2: (...) natural log-sum-exps, -inf in a row without keys.
    Returns (out, lse) of the same shapes and dtypes; differentiable in all four. ValueError where shapes differ.
    """
    if o1.shape != o2.shape:
        raise ValueError(f"o2: expected o1's shape {tuple(o1.shape)}, got {tuple(o2.shape)}")
    for name, lse in (("lse1", lse1), ("lse2", lse2)):
        if lse.shape != o1.shape[:-1]:
            raise ValueError(f"{name}: expected shape {tuple(o1.shape[:-1])}, got {tuple(lse.shape)}")
    larger = torch.maximum(lse1, lse2).detach()
    empty = larger == -torch.inf
    shift = larger.masked_fill(empty, 0)
    w1, w2 = torch.exp(lse1 - shift), torch.exp(lse2 - shift)
    total = (w1 + w2).masked_fill(empty, 1)
    lse = (total.log() + shift).masked_fill(empty, -torch.inf)
    out = o1 * (w1 / total)[..., None] + o2 * (w2 / total)[..., None]
    return out.to(o1.dtype), lse


def _needs_gradient(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
