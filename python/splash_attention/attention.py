"""The public functions: attention, attention_varlen, prepare and merge."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import _checks, _habits, ops
from ._dtypes import autocast_dtype, cast
from ._statistics import marked
from .normalizers import EncodedNormalizer, Normalizer, Softmax, as_normalizer
from .ops import make_problem
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
    **unknown,
) -> Tensor | tuple[Tensor, Tensor]:
    """out = P v, where P are the weights that `normalizer` makes of the scores scale * q.k that `pattern` keeps.

    q: (B, Hq, Nq, D). k, v: (B, Hkv, Nk, D); query head h reads head h // (Hq / Hkv). float16, bfloat16 or float32, on
        the CPU float64 too; any strides with a unit last one, 0 too (on CUDA a tensor whose rows are expanded is
        copied). One dtype; under autocast all but float64 are cast to its dtype, as SDPA's are.
    pattern: of splash_attention.patterns, a result of prepare(), or "full", "causal".
    normalizer: of splash_attention.normalizers, or "softmax", or a number alpha for Entmax(alpha).
    scale: 1 / sqrt(D) by default.
    lengths: (B,) int32 or int64, for right-padded batches (Nq = Nk): keys at positions >= length are masked, output
        rows there are 0 and give no gradient.
    kv_lengths: (B,) int32 or int64, for queries against a padded cache: keys from there on are masked and the last
        query stands at the last key that is left.
    q_start, k_start: positions of the first query and the first key; q_start = k_start + Nk - Nq by default: the last
        query meets the last key. Where Nq > Nk the first Nq - Nk queries then stand before every key: causal
        patterns keep nothing for them, and their rows are 0. q_start = 0 lets the first query meet the first key.
    return_statistic: also return the normalizer's statistic, (B, Hq, Nq) float32 (float64 for float64), differentiable.
    deterministic: True asks for a backward that repeats bit for bit, None follows
        torch.are_deterministic_algorithms_enabled(). Otherwise dq of long rows, and of lists of blocks of a multiple
        of 128, may be added up in no fixed order on CUDA, which is faster; all else always repeats (dk and dv on the
        CPU for one number of threads).
    validate: also check values inside CUDA tensors, which synchronises. Outside of torch.compile those of CPU tensors
        are always checked; kernels clamp them in any case.

    Returns out (B, Hq, Nq, D) in the dtype of q, and the statistic where asked for. A row that keeps no key is 0, and
    gradients that arrive at it, NaN and inf too, end there.

    Raises ValueError (shapes, ranges, senseless combinations), TypeError (dtypes; arguments that other functions have
    and this one does not, with what says the same) and NoKernelError (nothing compiled for it; second derivatives, and
    derivatives in forward mode). Softmax: Dao et al. 2022; entmax: Peters, Niculae & Martins 2019.
    """
    if unknown:
        raise _habits.unknown(attention, unknown)
    pattern, normalizer = as_pattern(pattern), as_normalizer(normalizer)
    if (
        pattern.is_constant
        and lengths is None
        and kv_lengths is None
        and not return_statistic
        and ops.direct(q, k, v)
        and _checks.left_to_operator(q, k, v)
        and not (torch.is_grad_enabled() and _learns(q, k, v, normalizer))
    ):
        try:
            return _plain(q, k, v, pattern, normalizer, scale, q_start, k_start, deterministic)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _first_refusal(error, _checks.check_inputs, q, k, v) from None
    options = _make_options(
        pattern=pattern, normalizer=normalizer, scale=scale, return_statistic=return_statistic,
        deterministic=deterministic, validate=validate, lengths=lengths, kv_lengths=kv_lengths, q_start=q_start,
        k_start=k_start,
    )  # fmt: skip
    return _checked(_attend, _checks.check_inputs, 4, q, k, v, options)


def _plain(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, normalizer: Normalizer, scale, q_start, k_start, wish):
    """attention() of a pattern that is_constant, between operands that the operator checks, without a gradient: the
    general way is as long as the call itself where a problem is small. wish: `deterministic`."""
    shape = q.shape
    q_start = _checks.check_positions(shape[2], k.shape[2], q_start, k_start)
    encoded = _encode_normalizer(normalizer, pattern, q, shape[1])
    return ops.forward_alone(
        q, k, v, pattern.name, pattern.ints(), encoded.name, encoded.floats, encoded.parameters,
        q_start, k_start, _scale(scale, shape[3]), _deterministic(wish),
    )  # fmt: skip


class _Options(NamedTuple):
    """What a call asks for beside q, k and v."""

    pattern: Pattern
    normalizer: Normalizer
    scale: float | None
    return_statistic: bool
    deterministic: bool | None
    validate: bool
    lengths: Tensor | None = None
    kv_lengths: Tensor | None = None
    q_start: int | None = None
    k_start: int = 0
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    max_seqlen_q: int = 0
    max_seqlen_k: int = 0


_make_options = partial(_Options.__new__, _Options)  # as ops.make_problem


def _attend(q: Tensor, k: Tensor, v: Tensor, direct: bool, options: _Options):
    """attention(), but for what is wrong with q, k and v alone. direct: as in ops."""
    batch, heads, Nq, dim = q.shape
    Nk, k_start, lengths, kv_lengths = k.shape[2], options.k_start, options.lengths, options.kv_lengths
    if lengths is not None or kv_lengths is not None:
        lengths, kv_lengths = _checks.check_lengths(
            lengths, kv_lengths, q, Nk, options.q_start, k_start, options.validate
        )
    q_start = _checks.check_positions(Nq, Nk, options.q_start, k_start, kv_lengths is not None)
    encoded = _encode_normalizer(options.normalizer, options.pattern, q, heads)
    backward = _needs_gradient(q, k, v, encoded)
    extent = Extent(batch, heads, Nq, Nk, q.device, k_start, None, backward, q_start, lengths, kv_lengths)
    name, ints, tensors = options.pattern.encode(extent)
    problem = make_problem(
        pattern=name, pattern_ints=ints, pattern_tensors=tensors, normalizer=encoded.name,
        normalizer_floats=encoded.floats, normalizer_parameters=encoded.parameters, lengths=lengths,
        kv_lengths=kv_lengths, q_start=q_start, k_start=k_start, scale=_scale(options.scale, dim),
        deterministic=_deterministic(options.deterministic),
    )  # fmt: skip
    out, statistic, _ = ops.forward(q, k, v, problem, direct, backward)
    return (out, marked(statistic, options.normalizer, encoded.name)) if options.return_statistic else out


def _first_refusal(error: Exception, check: Callable, q: Tensor, k: Tensor, v: Tensor) -> Exception:
    """What is wrong with q, k and v comes before what else is, and in the words of their caller."""
    try:
        check(q, k, v)
    except (TypeError, ValueError) as first:
        return first
    return error


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    pattern: Pattern | str = _FULL,
    normalizer: Normalizer | str | float = _SOFTMAX,
    *,
    scale: float | None = None,
    return_statistic: bool = False,
    deterministic: bool | None = None,
    validate: bool = False,
    **unknown,
) -> Tensor | tuple[Tensor, Tensor]:
    """attention() of B sequences that lie packed one after the other, each a problem of its own.

    q: (Tq, Hq, D). k, v: (Tk, Hkv, D). Sequence b is the rows cu_seqlens_q[b] to cu_seqlens_q[b + 1] of q and the rows
        cu_seqlens_k[b] to cu_seqlens_k[b + 1] of k and v; its keys have positions from 0 on and its last query stands
        at its last key. Empty sequences are legal. Rows after the last sequence are 0 in the output, with no gradient.
    cu_seqlens_q, cu_seqlens_k: (B + 1,) int32 or int64, rising from 0, on q's device.
    max_seqlen_q, max_seqlen_k: lengths of the longest sequences, or more.
    The other arguments are those of attention(). BlockMask, ElementMask and IndexCausal count rows and columns of one
    problem's tensors and are refused. The statistic is (Hq, Tq).

    Values of cu_seqlens on the CPU are always checked (ValueError), on CUDA with `validate`; kernels clamp them in any
    case, and rows that a too small max_seqlen leaves out are 0. Raises as attention() does.
    """
    if unknown:
        raise _habits.unknown(attention_varlen, unknown)
    pattern, normalizer = as_pattern(pattern), as_normalizer(normalizer)
    options = _make_options(
        pattern=pattern, normalizer=normalizer, scale=scale, return_statistic=return_statistic,
        deterministic=deterministic, validate=validate, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k,
    )  # fmt: skip
    return _checked(_attend_packed, _checks.check_packed, 3, q, k, v, options)


def _checked(attend, check, dims, q, k, v, options):
    """attend(q, k, v, direct, options). check(q, k, v) says what is wrong with the tensors, at once or, where the
    operator finds it anyhow, when it has."""
    direct = ops.direct(q, k, v)
    if not (direct and _checks.left_to_operator(q, k, v, dims=dims)):
        check(q, k, v)
        return attend(q, k, v, direct, options)
    try:
        return attend(q, k, v, direct, options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _first_refusal(error, check, q, k, v) from None


def _attend_packed(q: Tensor, k: Tensor, v: Tensor, direct: bool, options: _Options):
    """attention_varlen(), but for what is wrong with q, k and v alone. direct: as in ops."""
    tokens, heads, dim = q.shape
    max_seqlen_q, max_seqlen_k, validate = options.max_seqlen_q, options.max_seqlen_k, options.validate
    cu_seqlens_q = _checks.check_cu_seqlens("q", options.cu_seqlens_q, max_seqlen_q, q, tokens, validate)
    cu_seqlens_k = _checks.check_cu_seqlens("k", options.cu_seqlens_k, max_seqlen_k, q, k.shape[0], validate)
    _checks.check_same_sequences(cu_seqlens_q, cu_seqlens_k)
    sequences = cu_seqlens_q.shape[0] - 1
    encoded = _encode_normalizer(options.normalizer, options.pattern, q, heads)
    backward = _needs_gradient(q, k, v, encoded)
    extent = Extent(
        sequences, heads, max_seqlen_q, max_seqlen_k, q.device, 0, cu_seqlens_k, backward, None, None, None,
        cu_seqlens_q, tokens, k.shape[0],
    )  # fmt: skip
    name, ints, tensors = options.pattern.encode(extent)
    problem = make_problem(
        pattern=name, pattern_ints=ints, pattern_tensors=tensors, normalizer=encoded.name,
        normalizer_floats=encoded.floats, normalizer_parameters=encoded.parameters, cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k, max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k,
        scale=_scale(options.scale, dim), deterministic=_deterministic(options.deterministic),
    )  # fmt: skip
    out, statistic, _ = ops.forward(q, k, v, problem, direct, backward)
    return (out, marked(statistic[0], options.normalizer, encoded.name)) if options.return_statistic else out


def _encode_normalizer(normalizer: Normalizer, pattern: Pattern, q: Tensor, heads: int) -> EncodedNormalizer:
    """With its parameters in the dtype of the statistic."""
    normalizer.check(pattern, heads)
    encoded = normalizer.encode()
    if not encoded.parameters:
        return encoded
    return encoded._replace(parameters=[_checks.as_statistic(parameter, q) for parameter in encoded.parameters])


def _learns(q: Tensor, k: Tensor, v: Tensor, normalizer: Normalizer) -> bool:
    """Whether any of these may want a gradient."""
    return q.requires_grad or k.requires_grad or v.requires_grad or bool(normalizer.encode().parameters)


def _needs_gradient(q: Tensor, k: Tensor, v: Tensor, encoded: EncodedNormalizer) -> bool:
    if not torch.is_grad_enabled():
        return False
    if q.requires_grad or k.requires_grad or v.requires_grad:
        return True
    return any(p.requires_grad for p in encoded.parameters)


def _scale(scale: float | None, dim: int) -> float:
    return dim**-0.5 if scale is None else _checks.check_scale(scale)


def _deterministic(wish: bool | None) -> bool:
    return torch.are_deterministic_algorithms_enabled() if wish is None else bool(wish)


def prepare(
    pattern: Pattern | str,
    q: Tensor,
    k: Tensor,
    backward: bool = True,
    k_start: int = 0,
    q_start: int | None = None,
    lengths: Tensor | None = None,
    kv_lengths: Tensor | None = None,
    **unknown,
) -> Prepared:
    """The pattern with its metadata for tensors like q and k built once; it goes wherever a pattern goes.

    q: (B, Hq, Nq, D), k: (B, Hkv, Nk, D), as attention() takes them; only their shapes and device matter.
    backward: also build what the backward reads; ValueError later where it was left out and a gradient is asked for.
    q_start, k_start, lengths, kv_lengths: as in attention().
    Built on the device, without synchronisation. Later changes of a mask's values are not seen. What BigBird and
    Longformer of single tokens build depends on q_start, lengths and kv_lengths, too: a call with others than here
    builds its own. Lengths are the same where the call has the very tensor, int32 and unchanged since.
    """
    if unknown:
        raise _habits.unknown(prepare, unknown)
    pattern = as_pattern(pattern)
    _checks.check_queries_and_keys(q, k)
    lengths, kv_lengths = _checks.check_lengths(lengths, kv_lengths, q, k.shape[2], q_start, k_start, False)
    q_start = _checks.check_positions(q.shape[2], k.shape[2], q_start, k_start, kv_lengths is not None)
    extent = Extent(
        *q.shape[:3], k.shape[2], q.device, k_start, None, backward, q_start, lengths=lengths, kv_lengths=kv_lengths
    )
    return Prepared(pattern, pattern.encode(extent), extent)


def merge(o1: Tensor, lse1: Tensor, o2: Tensor, lse2: Tensor, **unknown) -> tuple[Tensor, Tensor]:
    """Softmax attention over the union of two disjoint sets of keys, from the results over each.

    o1, o2: (..., D) outputs, one shape and dtype. lse1, lse2: (...) natural log-sum-exps, -inf in a row without keys.
    Returns (out, lse) of the same shapes and dtypes, differentiable in all four any number of times and in every mode.
    A row that is empty in both is 0 and passes no gradient on. Under autocast o1 and o2 may have several dtypes, and
    are cast as attention() casts its inputs.

    Only Softmax() merges, Entmax(1) included. A statistic that attention() or attention_varlen() returned for another
    normalizer is refused, and so are views of it: entmax has a threshold in its place, TopK chooses among all keys,
    Elastic's weights are cut against all of them, and a sink would count once in each part. Copies by
    copy, pickle and torch.save show where they come from, those by clone() and to() do not; tensors of your own are
    taken as log-sum-exps.

    Raises ValueError (shapes or devices that differ, a statistic that does not merge) and TypeError (dtypes).
    """
    if unknown:
        raise _habits.unknown(merge, unknown)
    _checks.check_parts(o1, lse1, o2, lse2)
    if autocast_dtype(o1.device) is not None:
        o1, o2 = cast(o1), cast(o2)
    larger = torch.maximum(lse1, lse2).detach()
    empty = larger == -torch.inf
    shift = larger.masked_fill(empty, 0)
    w1, w2 = torch.exp(lse1 - shift), torch.exp(lse2 - shift)
    total = (w1 + w2).masked_fill(empty, 1)
    lse = (total.log() + shift).masked_fill(empty, -torch.inf)
    out = (o1 * (w1 / total)[..., None] + o2 * (w2 / total)[..., None]).masked_fill(empty[..., None], 0)
    return out.to(o1.dtype), lse
