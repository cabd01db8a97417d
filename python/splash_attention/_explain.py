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
    deterministic: bool | None = None,
    dtype: torch.dtype = torch.bfloat16,
    arch: str | None = None,
) -> str:
    """What attention() with these arguments would launch: for the forward and for the backward a line a step, with its
    share of the pattern, how rows and keys are laid out for it, the compiled instance that runs it and, on a GPU, which
    of its backward kernels; or why there is none, as NoKernelError would say.

    q, k, v: as attention() takes them, of any device, also meta and fake tensors; or shapes (B, H, N, D), which stand
        for contiguous tensors of `dtype`. No value of theirs is read.
    arch: "cpu" or a GPU such as "sm90", which need not be there; by default what the tensors are on, and "cpu" for
        shapes, meta and fake tensors. Another GPU than the tensors' makes sense, too: a plan depends on this build,
        on shapes, strides and addresses alone.
    The other arguments are attention()'s. Metadata of patterns that hold tensors is built, as a call would.

    Raises what attention() raises for wrong arguments: ValueError and TypeError; ValueError for an unknown arch.
    """
    pattern, normalizer = as_pattern(pattern), as_normalizer(normalizer)
    q, k, v = (_tensor(name, given, dtype) for name, given in (("q", q), ("k", k), ("v", v)))
    _checks.check_inputs(q, k, v)
    real = all(map(readable, (q, k, v)))
    arch = _arch(arch, q, real)
    batch, heads, Nq, dim = q.shape
    Nk = k.shape[2]
    like_q = [None if given is None else given.to(q.device) for given in (lengths, kv_lengths)]
    lengths, kv_lengths = _checks.check_lengths(*like_q, q, Nk, q_start, k_start, False)
    q_start = _checks.check_positions(Nq, Nk, q_start, k_start, kv_lengths is not None)
    normalizer.check(pattern, heads)
    device = q.device if real else torch.device("cpu")
    built_for = [given if given is None or real else torch.zeros(batch, dtype=torch.int32) for given in like_q]
    extent = Extent(batch, heads, Nq, Nk, device, k_start, None, True, q_start, *built_for)
    encoded, terms = normalizer.encode(), pattern.encode(extent)
    call = _Call(arch=arch.encode(), pattern=terms.pattern.encode(), normalizer=encoded.name.encode())
    call.q, call.k, call.v = (_view(tensor, loaded=arch != "cpu") for tensor in (q, k, v))
    statistic = torch.float64 if q.dtype is torch.float64 else torch.float32
    call.ints, call.num_ints = _array(ctypes.c_int64, terms.ints)
    call.floats, call.num_floats = _array(ctypes.c_double, encoded.floats)
    call.tensors, call.num_tensors = _array(_View, [_view(tensor) for tensor in terms.tensors])
    call.parameters, call.num_parameters = _array(_View, [_view(p, statistic) for p in encoded.parameters])
    there = ctypes.c_void_p(1).value  # positions are not read, but known to be given
    call.positions = _Positions(q_start=q_start, k_start=k_start)
    call.positions.lengths = None if lengths is None else there
    call.positions.kv_lengths = None if kv_lengths is None else there
    call.scale = _scale(scale, dim)
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


def _tensor(name: str, given: Tensor | Sequence[int], dtype: torch.dtype) -> Tensor:
    """A shape as a tensor without memory."""
    if isinstance(given, Tensor):
        return given
    if not isinstance(given, Sequence) or not all(type(size) is int and size >= 0 for size in given):
        raise TypeError(f"{name}: expected a tensor or a shape (batch, heads, length, head_dim), got {given!r}")
    return torch.empty(given, dtype=dtype, device="meta")


def _arch(arch: str | None, q: Tensor, real: bool) -> str:
    if arch is None:
        if not real or q.device.type != "cuda":
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
    if loaded and shape[2] > 1 and stride[2] == 0:
        stride, data = torch.empty(shape, device="meta").stride(), 0
    pad = MAX_RANK - len(shape)
    return _View(
        data, _DTYPES.index(dtype or tensor.dtype), len(shape), (*shape, *[1] * pad), (*stride, *[0] * pad)
    )  # fmt: skip


def _array(kind, values: Sequence):
    return (kind * len(values))(*values), len(values)
