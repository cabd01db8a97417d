"""What attention() refuses before anything is computed, with texts that say what is allowed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._constants import MAX_CUDA_HEAD_DIM, POSITIONS
from ._dtypes import check_one_dtype
from ._statistics import kind_of
from ._values import checkable

_MAX_SCALE = 2.0**126
_FLOATS = frozenset((torch.bfloat16, torch.float16, torch.float32, torch.float64))


def left_to_operator(q: Tensor, k: Tensor, v: Tensor, dims: int = 4) -> bool:
    """Whether the operator itself refuses whatever check_inputs would, so that a right call need not wait for it.

    dims: 4, or 3 for packed tokens and check_packed.
    """
    shape = q.shape
    return (
        len(shape) == dims
        and k.dim() == dims
        and v.dim() == dims
        and shape[1] > 0
        and shape[-1] > 0
        and shape[-1] % 8 == 0
        and not (q.is_meta or k.is_meta or v.is_meta)  # one of them would take the call to the operator's fake
    )


def check_inputs(q: Tensor, k: Tensor, v: Tensor) -> None:
    """q (B, Hq, Nq, D), k and v (B, Hkv, Nk, D): types, dtypes, devices, shapes, strides."""
    _check_dense(q=q, k=k, v=v)


def check_queries_and_keys(q: Tensor, k: Tensor) -> None:
    """What check_inputs says of q and k alone."""
    _check_dense(q=q, k=k)


def check_packed(q: Tensor, k: Tensor, v: Tensor) -> None:
    """q (Tq, Hq, D), k and v (Tk, Hkv, D): what check_inputs says."""
    _check_tensors(("tokens", "heads", "head_dim"), q=q, k=k, v=v)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.shape[0] > POSITIONS:
            raise ValueError(f"{name}: expected at most 2**29 tokens, got {tensor.shape[0]}")
    if k.shape[2] != q.shape[2]:
        raise ValueError(
            f"k: expected shape (tokens, kv_heads, {q.shape[2]}) to go with q {_shape(q)}, got {_shape(k)}"
        )
    _check_heads(q=q, k=k, v=v)


def _check_dense(q: Tensor, k: Tensor, **v: Tensor) -> None:
    _check_tensors(("batch", "heads", "length", "head_dim"), q=q, k=k, **v)
    batch, _, _, dim = q.shape
    if k.shape[0] != batch or k.shape[3] != dim:
        raise ValueError(
            f"k: expected shape ({batch}, kv_heads, keys, {dim}) to go with q {_shape(q)}, got {_shape(k)}"
        )
    _check_heads(q=q, k=k, **v)


def _check_tensors(axes: tuple[str, ...], q: Tensor, **others: Tensor) -> None:
    for name, tensor in {"q": q, **others}.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {tensor.dtype}")
        if tensor.layout is not torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")
        if tensor.dim() != len(axes):
            raise ValueError(f"{name}: expected {len(axes)} dimensions ({', '.join(axes)}), got shape {_shape(tensor)}")
        if tensor.device != q.device:
            raise ValueError(f"{name}: expected q's device {q.device}, got {tensor.device}")
    check_one_dtype(q=q, **others)


def _check_heads(q: Tensor, k: Tensor, v: Tensor | None = None) -> None:
    """The head dimension, the numbers of heads, what v shares with k, and strides."""
    heads, kv_heads, dim = q.shape[1], k.shape[1], q.shape[-1]
    if v is not None and v.shape != k.shape:
        if v.shape[:-1] == k.shape[:-1]:
            raise ValueError(f"v: a head dimension other than k's is not supported: expected {dim}, got {v.shape[-1]}")
        raise ValueError(f"v: expected k's shape {_shape(k)}, got {_shape(v)}")
    most = MAX_CUDA_HEAD_DIM or dim  # without CUDA kernels the operator says so
    if dim < 1 or (q.is_cuda and (dim % 8 or dim > most)):
        allowed = f"a multiple of 8 up to {most} on CUDA" if q.is_cuda else "at least 1"
        raise ValueError(f"q: expected a head dimension (the last one) of {allowed}, got {dim}")
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"q: expected a number of heads that is a multiple of k's, got {heads} and {kv_heads}")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor is not None and tensor.stride(-1) != 1 and dim > 1 and tensor.numel() > 0:
            raise ValueError(
                f"{name}: expected stride 1 in the last dimension, got {tensor.stride(-1)}; pass {name}.contiguous()"
            )


def check_parts(o1: Tensor, lse1: Tensor, o2: Tensor, lse2: Tensor) -> None:
    """Outputs (..., D) of one shape, and their statistics (...), all on one device."""
    for name, tensor in (("o1", o1), ("lse1", lse1), ("o2", o2), ("lse2", lse2)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {tensor.dtype}")
        if tensor.device != o1.device:
            raise ValueError(f"{name}: expected o1's device {o1.device}, got {tensor.device}")
    if o1.dim() < 1:
        raise ValueError(f"o1: expected shape (..., head_dim), got {_shape(o1)}")
    if o1.shape != o2.shape:
        raise ValueError(f"o2: expected o1's shape {_shape(o1)}, got {_shape(o2)}")
    if o1.dtype != o2.dtype:
        check_one_dtype(o1=o1, o2=o2)
    for name, lse in (("lse1", lse1), ("lse2", lse2)):
        if lse.shape != o1.shape[:-1]:
            raise ValueError(f"{name}: expected shape {tuple(o1.shape[:-1])}, got {_shape(lse)}")
        kind = kind_of(lse)
        if kind is not None:
            raise ValueError(
                f"{name}: expected the log-sum-exp of Softmax() without sink_logit, got the statistic of {kind}, "
                "whose results do not merge"
            )


def check_cu_seqlens(side: str, ends: Tensor, longest: int, q: Tensor, tokens: int, validate: bool) -> Tensor:
    """cu_seqlens_q or cu_seqlens_k as the operators take it: int32, contiguous."""
    name = f"cu_seqlens_{side}"
    if not isinstance(ends, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(ends).__name__}")
    if ends.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: expected int32 or int64, got {ends.dtype}")
    if ends.dim() != 1 or ends.shape[0] < 1:
        raise ValueError(f"{name}: expected shape (sequences + 1,), got {_shape(ends)}")
    if ends.device != q.device:
        raise ValueError(f"{name}: expected q's device {q.device}, got {ends.device}")
    if isinstance(longest, bool) or not isinstance(longest, (int, torch.SymInt)):
        raise TypeError(f"max_seqlen_{side}: expected an int, got {type(longest).__name__}")
    if longest < 0 or longest > POSITIONS:
        raise ValueError(f"max_seqlen_{side}: expected 0 to 2**29, got {longest}")
    if checkable(ends, validate):
        lengths = ends.diff()
        if int(ends[0]) != 0 or (lengths.numel() and int(lengths.min()) < 0) or int(ends[-1]) > tokens:
            raise ValueError(f"{name}: expected values rising from 0 to at most {tokens}, got {_some(ends)}")
        if lengths.numel() and int(lengths.max()) > longest:
            raise ValueError(
                f"max_seqlen_{side}: expected at least the longest sequence, {int(lengths.max())}, got {longest}"
            )
    return ends.clamp(0, POSITIONS).to(torch.int32).contiguous() if ends.dtype is torch.int64 else ends.contiguous()


def check_same_sequences(cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> None:
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            f"cu_seqlens_k: expected cu_seqlens_q's shape {_shape(cu_seqlens_q)}, got {_shape(cu_seqlens_k)}"
        )


def as_statistic(parameter: Tensor, q: Tensor) -> Tensor:
    """A normalizer's parameter in the dtype of the statistic, float32 (float64 for float64), on q's device."""
    if parameter.device != q.device:
        raise ValueError(f"normalizer: its parameters must be on q's device {q.device}, got {parameter.device}")
    dtype = torch.float64 if q.dtype is torch.float64 else torch.float32
    if parameter.dtype is dtype and parameter.is_contiguous():
        return parameter
    return parameter.to(dtype).contiguous()


def check_scale(scale: float) -> float:
    if not isinstance(scale, (float, int, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"scale: expected a number, got {type(scale).__name__}")
    # Kernels multiply it by log2(e) in float32, which holds less than 2**128.
    if not -_MAX_SCALE < scale < _MAX_SCALE:
        finite = -math.inf < scale < math.inf  # torch.compile does not trace math.isfinite
        allowed = "a number below 2**126 in magnitude" if finite else "a finite number"
        raise ValueError(f"scale: expected {allowed}, got {scale}")
    return scale


def check_positions(Nq: int, Nk: int, q_start: int | None, k_start: int, cached: bool = False) -> int:
    """q_start with its default filled in. Every position must lie below 2**29 in magnitude.

    cached: the last query stands at the last key that kv_lengths leave, which may be the first one of all.
    """
    if q_start is None and type(k_start) is int and k_start >= 0 and Nq <= Nk and k_start + Nk <= POSITIONS:
        return k_start + Nk - Nq
    for name, start in (("q_start", q_start), ("k_start", k_start)):
        if not isinstance(start, (int, torch.SymInt)) and (start is not None or name == "k_start"):
            raise TypeError(f"{name}: expected an int, got {type(start).__name__}")
    if q_start is None:
        q_start = k_start + Nk - Nq
    first = min(q_start, k_start + 1 - Nq) if cached else q_start
    for name, start, length in (("k_start", k_start, Nk), ("q_start", first, Nq)):
        if start <= -POSITIONS or start + length > POSITIONS:
            raise ValueError(
                f"{name}: positions must lie between -2**29 and 2**29, both excluded, "
                f"got {start} to {start + max(length, 1) - 1}"
            )
    return q_start


def check_lengths(
    lengths: Tensor | None,
    kv_lengths: Tensor | None,
    q: Tensor,
    Nk: int,
    q_start: int | None,
    k_start: int,
    validate: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Both as the operators take them: int32, contiguous. Values are checked on the CPU, elsewhere with `validate`."""
    if lengths is None and kv_lengths is None:
        return None, None
    if lengths is not None and kv_lengths is not None:
        raise ValueError("lengths, kv_lengths: give one of them, not both")
    if kv_lengths is not None:
        if q_start is not None:
            raise ValueError(f"q_start: kv_lengths already says where the queries stand, got q_start {q_start} too")
        return None, _lengths("kv_lengths", kv_lengths, q, Nk, validate)
    if q.shape[2] != Nk:
        raise ValueError(f"lengths: expected as many queries as keys (Nq = Nk), got {q.shape[2]} and {Nk}")
    # A slice of a longer sequence knows the whole sequence's length, which the slice itself does not bound.
    whole = q_start is None and k_start == 0
    return _lengths("lengths", lengths, q, Nk if whole else POSITIONS, validate), None


def _lengths(name: str, lengths: Tensor, q: Tensor, most: int, validate: bool) -> Tensor:
    if not isinstance(lengths, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(lengths).__name__}")
    if lengths.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: expected int32 or int64, got {lengths.dtype}")
    if lengths.dim() != 1 or lengths.shape[0] != q.shape[0]:
        raise ValueError(f"{name}: expected shape ({q.shape[0]},), one a batch entry, got {_shape(lengths)}")
    if lengths.device != q.device:
        raise ValueError(f"{name}: expected q's device {q.device}, got {lengths.device}")
    if lengths.shape[0] and checkable(lengths, validate):
        least, largest = (int(extreme) for extreme in torch.aminmax(lengths))
        if least < 0 or largest > most:
            raise ValueError(f"{name}: expected values from 0 to {most}, got {least} to {largest}")
    if lengths.dtype is torch.int64:
        lengths = lengths.clamp(0, POSITIONS).to(torch.int32)
    return lengths.contiguous()


def _some(values: Tensor) -> str:
    shown = ", ".join(str(int(value)) for value in values[:8])
    return f"({shown}{', ...' if values.numel() > 8 else ''})"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
