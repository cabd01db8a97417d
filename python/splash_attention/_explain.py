"""explain(): what a call launches, without launching it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _checks, _library
from ._constants import MAX_RANK
from ._values import readable
from .attention import _FULL, _SOFTMAX, _deterministic, _scale
from .normalizers import Normalizer, as_normalizer
from .patterns import Extent, Pattern, as_pattern

_DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool,
)  # fmt: skip
_ARCH = re.compile(r"cpu|cuda|sm[1-9]\d+")


def explain(
    q: Tensor | Sequence[int],
    k: Tensor | Sequence[int],
    v: Tensor | Sequence[int],
    pattern: Pattern | str = _FULL,
    normalizer: Normalizer | str | float = _SOFTMAX,
    *,
    scale: float | None = None,
    lengths: Tensor | None = None,
    kv_lengths: Tensor | None = None,
    q_start: int | None = None,
    k_start: int = 0,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    deterministic: bool | None = None,
    dtype: torch.dtype = torch.bfloat16,
    arch: str | None = None,
) -> str:
    """What attention() with these arguments would launch, or attention_varlen() where sequences are packed: for the
    forward and for the backward a line a step, with its share of the pattern, how rows and keys are laid out for it,
    the compiled instance that runs it and, on a GPU, which of its backward kernels; or why there is none, as
    NoKernelError would say.

    q, k, v: as these functions take them, of any device, also meta and fake tensors; or shapes (B, H, N, D), packed
        (T, H, D), which stand for contiguous tensors of `dtype`. No value of theirs is read.
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k: as attention_varlen() takes them, all four or none.
    arch: "cpu" or a GPU such as "sm90", which need not be there; by default what the tensors are on, and "cpu" for
        shapes, meta and fake tensors. Another GPU than the tensors' makes sense, too: a plan depends on this build,
        on shapes, strides and addresses alone.
    The other arguments are attention()'s. Metadata of patterns that hold tensors is built, as a call would.

    Raises what these functions raise for wrong arguments: ValueError and TypeError; ValueError for an unknown arch.
    """
    pattern, normalizer = as_pattern(pattern), as_normalizer(normalizer)
    q, k, v = (_tensor(name, given, dtype) for name, given in (("q", q), ("k", k), ("v", v)))
    packing = {
        "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k,
        "max_seqlen_q": max_seqlen_q, "max_seqlen_k": max_seqlen_k,
    }  # fmt: skip
    if all(given is None for given in packing.values()):
        extent, positions = _dense(q, k, v, lengths, kv_lengths, q_start, k_start)
    else:
        places = {"lengths": lengths, "kv_lengths": kv_lengths, "q_start": q_start, "k_start": k_start or None}
        _check_packing(packing, places)
        extent, positions = _packed(q, k, v, **packing)
    normalizer.check(pattern, extent.heads)
    arch = _arch(arch, q)
    encoded, terms = normalizer.encode(), pattern.encode(extent)
    call = _Call(arch=arch.encode(), pattern=terms.pattern.encode(), normalizer=encoded.name.encode())
    call.q, call.k, call.v = (_view(tensor, loaded=arch != "cpu") for tensor in (q, k, v))
    statistic = torch.float64 if q.dtype is torch.float64 else torch.float32
    call.ints, call.num_ints = _array(ctypes.c_int64, terms.ints)
    call.floats, call.num_floats = _array(ctypes.c_double, encoded.floats)
    call.tensors, call.num_tensors = _array(_View, [_view(tensor) for tensor in terms.tensors])
    call.parameters, call.num_parameters = _array(_View, [_view(p, statistic) for p in encoded.parameters])
    call.positions = positions
    call.scale = _scale(scale, q.shape[-1])
    call.deterministic = _deterministic(deterministic)
    call.learns = any(parameter.requires_grad for parameter in encoded.parameters)
    texts = []
    for name in ("forward", "backward"):
        call.pass_ = name.encode()
        steps = _library.plan(ctypes.byref(call))
        texts.append(f"{name} on {arch}\n" + "\n".join(f"  {line}" for line in steps.splitlines()))
    return "\n".join(texts)


class _View(ctypes.Structure):
    """TensorView of core/arguments.hpp."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("rank", ctypes.c_int),
        ("shape", ctypes.c_int64 * MAX_RANK),
        ("stride", ctypes.c_int64 * MAX_RANK),
    ]


class _Positions(ctypes.Structure):
    """Positions of core/arguments.hpp."""

    _fields_ = [
        ("q_start", ctypes.c_int64),
        ("k_start", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("lengths", "kv_lengths", "cu_queries", "cu_keys")),
        *((name, ctypes.c_int64) for name in ("sequences", "max_queries", "max_keys")),
    ]


class _Call(ctypes.Structure):
    """splash_call of kernels/registry.hpp."""

    _fields_ = [
        ("pass_", ctypes.c_char_p),
        ("arch", ctypes.c_char_p),
        ("q", _View),
        ("k", _View),
        ("v", _View),
        ("pattern", ctypes.c_char_p),
        ("ints", ctypes.POINTER(ctypes.c_int64)),
        ("num_ints", ctypes.c_int64),
        ("tensors", ctypes.POINTER(_View)),
        ("num_tensors", ctypes.c_int64),
        ("normalizer", ctypes.c_char_p),
        ("floats", ctypes.POINTER(ctypes.c_double)),
        ("num_floats", ctypes.c_int64),
        ("parameters", ctypes.POINTER(_View)),
        ("num_parameters", ctypes.c_int64),
        ("positions", _Positions),
        ("scale", ctypes.c_double),
        ("deterministic", ctypes.c_bool),
        ("learns", ctypes.c_bool),
    ]


_GIVEN = ctypes.c_void_p(1).value  # positions are not read, but known to be given


def _dense(q, k, v, lengths, kv_lengths, q_start, k_start) -> tuple[Extent, _Positions]:
    """The problem of attention()."""
    _checks.check_inputs(q, k, v)
    batch, heads, Nq, _ = q.shape
    Nk = k.shape[2]
    here = [None if given is None else given.to(q.device) for given in (lengths, kv_lengths)]
    lengths, kv_lengths = _checks.check_lengths(*here, q, Nk, q_start, k_start, False)
    q_start = _checks.check_positions(Nq, Nk, q_start, k_start, kv_lengths is not None)
    built_for = [_readable(given, batch) for given in here]
    extent = Extent(batch, heads, Nq, Nk, _device(q), k_start, None, True, q_start, *built_for)
    positions = _Positions(q_start=q_start, k_start=k_start)
    positions.lengths = None if lengths is None else _GIVEN
    positions.kv_lengths = None if kv_lengths is None else _GIVEN
    return extent, positions


def _packed(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k) -> tuple[Extent, _Positions]:
    """The problem of attention_varlen()."""
    _checks.check_packed(q, k, v)
    (tokens, heads, _), keys = q.shape, k.shape[0]
    ends = [given.to(q.device) if isinstance(given, Tensor) else given for given in (cu_seqlens_q, cu_seqlens_k)]
    ends[0] = _checks.check_cu_seqlens("q", ends[0], max_seqlen_q, q, tokens, False)
    ends[1] = _checks.check_cu_seqlens("k", ends[1], max_seqlen_k, q, keys, False)
    _checks.check_same_sequences(*ends)
    sequences = ends[0].shape[0] - 1
    built_for = [_readable(given, sequences + 1) for given in ends]
    extent = Extent(
        sequences, heads, max_seqlen_q, max_seqlen_k, _device(q), 0, built_for[1], True, None, None, None, built_for[0],
        tokens, keys,
    )  # fmt: skip
    positions = _Positions(sequences=sequences, max_queries=max_seqlen_q, max_keys=max_seqlen_k)
    positions.cu_queries = positions.cu_keys = _GIVEN
    return extent, positions


def _check_packing(packing: dict, places: dict) -> None:
    missing = [name for name, given in packing.items() if given is None]
    if missing:
        raise ValueError(f"{', '.join(missing)}: packed sequences are told by {', '.join(packing)}, all of them")
    for name, given in places.items():
        if given is not None:
            raise ValueError(f"{name}: packed sequences have positions of their own, got {given}")


def _device(q: Tensor) -> torch.device:
    """Where metadata is built: tensors without values have none there either."""
    return q.device if readable(q) else torch.device("cpu")


def _readable(given: Tensor | None, count: int) -> Tensor | None:
    return given if given is None or readable(given) else torch.zeros(count, dtype=torch.int32)


def _tensor(name: str, given: Tensor | Sequence[int], dtype: torch.dtype) -> Tensor:
    """A shape as a tensor without memory."""
    if isinstance(given, Tensor):
        return given
    if not isinstance(given, Sequence) or not all(type(size) is int and size >= 0 for size in given):
        raise TypeError(f"{name}: expected a tensor or a shape (batch, heads, length, head_dim), got {given!r}")
    return torch.empty(given, dtype=dtype, device="meta")


def _arch(arch: str | None, q: Tensor) -> str:
    if arch is None:
        if not readable(q) or q.device.type != "cuda":
            return "cpu"
        major, minor = torch.cuda.get_device_capability(q.device)
        return f"sm{10 * major + minor}"
    if not isinstance(arch, str) or not _ARCH.fullmatch(arch):
        raise ValueError(f'arch: expected "cpu" or a compute capability such as "sm90", got {arch!r}')
    return arch


def _view(tensor: Tensor, dtype: torch.dtype | None = None, loaded: bool = False) -> _View:
    """loaded: as CUDA's kernels get it: a tensor whose rows are expanded was copied for them."""
    shape, stride = tuple(tensor.shape), tensor.stride()
    data = tensor.data_ptr() if readable(tensor) else 0
    rows = 2 if len(shape) == 4 else 0  # packed: (tokens, heads, head_dim)
    if loaded and shape[rows] > 1 and stride[rows] == 0:
        stride, data = torch.empty(shape, device="meta").stride(), 0
    pad = MAX_RANK - len(shape)
    return _View(
        data, _DTYPES.index(dtype or tensor.dtype), len(shape), (*shape, *[1] * pad), (*stride, *[0] * pad)
    )  # fmt: skip


def _array(kind, values: Sequence):
    return (kind * len(values))(*values), len(values)
