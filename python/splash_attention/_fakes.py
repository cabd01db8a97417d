"""What the attention operators refuse without values: wrong shapes, dtypes, devices, heads and lengths.

The texts carry the class as those of the kernels do (see _errors). Sizes that a graph keeps open are compared only with
each other, as the kernels do; numbers and strides are looked at where they are settled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value

from ._constants import MAX_RANK, MAX_TERMS, POSITIONS, SAVED, saved_numbers

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_KNOWN = (*_FLOATS, torch.int32, torch.int64, torch.bool)


def value_error(text: str) -> RuntimeError:
    return RuntimeError(f"splash.ValueError: {text}")


def type_error(text: str) -> RuntimeError:
    return RuntimeError(f"splash.TypeError: {text}")


def check_tensor(name: str, tensor: Tensor | None, device: torch.device | None = None, most: int = MAX_RANK) -> None:
    """A dense tensor of a known dtype, of up to `most` dimensions, on the device."""
    if tensor is None:
        raise value_error(f"{name} is None; expected a tensor")
    if tensor.layout is not torch.strided:
        raise type_error(f"{name} is sparse; expected a dense tensor")
    if device is not None and tensor.device != device:
        raise value_error(f"{name} is on {tensor.device}; expected {device} like q")
    if tensor.dtype not in _KNOWN:
        raise type_error(f"{name} has dtype {tensor.dtype}; known are {', '.join(map(str, _KNOWN))}")
    if tensor.dim() > most:
        raise value_error(f"{name} has {tensor.dim()} dimensions; at most {most} make sense")


def check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype is not dtype:
        raise type_error(f"{name} has dtype {tensor.dtype}; expected {dtype}")


def check_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tensor.dim() != len(shape) or any(size != wanted for size, wanted in zip(tensor.shape, shape, strict=True)):
        raise value_error(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(shape)}")


def check_contiguous(name: str, tensor: Tensor) -> None:
    settled = all(map(has_static_value, (*tensor.shape, *tensor.stride())))
    if settled and not tensor.is_contiguous():
        raise value_error(f"{name} is not contiguous")


def statistic_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype is torch.float64 else torch.float32


def check_problem(q: Tensor, k: Tensor, v: Tensor, problem) -> tuple[tuple, tuple]:
    """The shapes (B, H, N, D) of q and k. problem: ops.Problem."""
    check_tensor("q", q)
    for name, tensor in (("k", k), ("v", v)):
        check_tensor(name, tensor, q.device)
    packed = problem.cu_seqlens_q is not None
    q_shape, k_shape, v_shape = (_heads_first(tensor, packed) for tensor in (q, k, v))
    _check_pattern(problem, q.device)
    _check_normalizer(problem, q, q_shape)
    _check_lengths(problem, q_shape, q.device)

    if q.dtype not in _FLOATS:
        raise type_error(f"q has dtype {q.dtype}; allowed are {', '.join(map(str, _FLOATS))}")
    for name, shape, what in (("q", q_shape, "queries"), ("k", k_shape, "keys")):
        if len(shape) != 4:
            raise value_error(f"{name} has {len(shape)} dimensions; expected 4 (batch, heads, {what}, head_dim)")
    batch, heads, _, dim = q_shape
    _, kv_heads, keys, _ = k_shape
    if dim < 1:
        raise value_error("q has head_dim 0")
    for name, tensor, shape in (("q", q, q_shape), ("k", k, k_shape), ("v", v, v_shape)):
        own = q_shape if name == "q" else (batch, kv_heads, keys, dim)
        check_like(name, tensor, shape, own, q.dtype)
    if kv_heads < 1 or heads % kv_heads != 0:
        raise value_error(f"q has {heads} heads, which is no multiple of k's {kv_heads}")
    if not problem.scale - problem.scale == 0:
        raise value_error(f"scale is {problem.scale}; expected a finite number")
    _check_positions(problem, q_shape, keys)
    return q_shape, k_shape


def check_like(name: str, tensor: Tensor, shape: Sequence[int], wanted: Sequence[int], dtype: torch.dtype) -> None:
    """shape: the tensor's own, heads first."""
    check_dtype(name, tensor, dtype)
    if len(shape) != len(wanted) or any(size != other for size, other in zip(shape, wanted, strict=True)):
        raise value_error(f"{name} has shape {tuple(shape)}; expected {tuple(wanted)}")
    if has_static_value(tensor.stride(-1)) and tensor.stride(-1) != 1 and shape[-1] > 1 and tensor.numel() > 0:
        raise value_error(
            f"{name} has stride {tensor.stride(-1)} along its last dimension; expected 1 ({name}.contiguous() has it)"
        )


def check_results(problem, q: Tensor, shape: tuple, out: Tensor, statistic: Tensor, saved: Tensor) -> None:
    """What the forward returned, as the backward takes it; shape: that of q, heads first."""
    for name, tensor in (("out", out), ("statistic", statistic), ("saved", saved)):
        check_tensor(name, tensor, q.device)
    check_like("out", out, _heads_first(out, problem.cu_seqlens_q is not None), shape, q.dtype)
    rows = [("statistic", statistic, shape[:3])]
    if count := saved_numbers(problem.normalizer, q.device.type):
        rows.append(("saved", saved, (count, *shape[:3])))
    for name, tensor, own in rows:
        check_dtype(name, tensor, statistic_dtype(q))
        check_shape(name, tensor, own)
        check_contiguous(name, tensor)


def check_gradients(problem, q: Tensor, shape: tuple, grad_out: Tensor, grad_statistic: Tensor | None) -> None:
    check_tensor("grad_out", grad_out, q.device)
    check_dtype("grad_out", grad_out, q.dtype)
    own = _heads_first(grad_out, problem.cu_seqlens_q is not None)
    if len(own) != 4 or any(size != wanted for size, wanted in zip(own, shape, strict=True)):
        raise value_error(f"grad_out has shape {tuple(own)}; expected {tuple(shape)}")
    if grad_statistic is not None:
        check_tensor("grad_statistic", grad_statistic, q.device)
        check_dtype("grad_statistic", grad_statistic, statistic_dtype(q))
        check_shape("grad_statistic", grad_statistic, shape[:3])


def _heads_first(tensor: Tensor, packed: bool) -> tuple:
    """Packed tokens (T, H, D) as (1, H, T, D)."""
    if not packed or tensor.dim() != 3:
        return tuple(tensor.shape)
    tokens, heads, dim = tensor.shape
    return 1, heads, tokens, dim


def _check_pattern(problem, device: torch.device) -> None:
    terms = problem.pattern.split("&")
    if len(terms) > MAX_TERMS:
        raise value_error(f"pattern {problem.pattern!r} joins more than {MAX_TERMS} terms")
    if not all(terms):
        raise value_error(f"pattern {problem.pattern!r} has the unknown term ''")
    for n, tensor in enumerate(problem.pattern_tensors or ()):
        name = f"pattern_tensors[{n}]"
        check_tensor(name, tensor, device)
        if tensor.dtype is not torch.int32:
            raise value_error(f"{name} of pattern {problem.pattern} has dtype {tensor.dtype}; expected int32")
        check_contiguous(f"{name} of pattern {problem.pattern}", tensor)


def _check_normalizer(problem, q: Tensor, shape: tuple) -> None:
    if problem.normalizer not in SAVED:
        raise value_error(f"normalizer is {problem.normalizer!r}; known are {', '.join(SAVED)}")
    for n, parameter in enumerate(problem.normalizer_parameters or ()):
        name = f"normalizer_parameters[{n}]"
        check_tensor(name, parameter, q.device)
        check_dtype(name, parameter, statistic_dtype(q))
        # The first one has a number a head, the second one a row of distances.
        if len(shape) == 4:
            check_shape(name, parameter, (shape[1],) if n == 0 else (shape[1], *parameter.shape[1:2]))
        check_contiguous(name, parameter)


def _check_lengths(problem, shape: tuple, device: torch.device) -> None:
    ends = problem.cu_seqlens_q
    if (ends is None) != (problem.cu_seqlens_k is None):
        raise value_error("cu_seqlens_q and cu_seqlens_k belong together; got one of them")
    entries = shape[0] if len(shape) > 0 else 0
    counts = {"lengths": entries, "kv_lengths": entries}
    if ends is not None:
        if ends.dim() == 1 and ends.shape[0] < 1:
            raise value_error("cu_seqlens_q has no entries; expected one more than there are sequences")
        counts |= {"cu_seqlens_q": ends.numel(), "cu_seqlens_k": ends.numel()}
    for name, count in counts.items():
        tensor = getattr(problem, name)
        if tensor is None:
            continue
        check_tensor(name, tensor, device)
        check_dtype(name, tensor, torch.int32)
        if tensor.dim() != 1:
            raise value_error(f"{name} has {tensor.dim()} dimensions; expected 1")
        if tensor.shape[0] != count:
            raise value_error(f"{name} has {tensor.shape[0]} entries; expected {count}")
        check_contiguous(name, tensor)


def _check_positions(problem, shape: tuple, keys: int) -> None:
    batch, _, queries, _ = shape
    for start in (problem.q_start, problem.k_start):
        if all(map(has_static_value, (start, queries, keys))) and abs(start) + queries + keys > POSITIONS:
            raise value_error(f"positions from {start} on leave the range of +-{POSITIONS}")
    lengths, kv_lengths = problem.lengths is not None, problem.kv_lengths is not None
    if lengths and queries != keys:
        raise value_error(f"lengths needs as many queries as keys; got {queries} and {keys}")
    if lengths and kv_lengths:
        raise value_error("lengths and kv_lengths exclude each other")
    if problem.cu_seqlens_q is None:
        return
    if lengths or kv_lengths:
        raise value_error(
            "packed sequences have lengths of their own; lengths and kv_lengths make no sense beside them"
        )
    if batch != 1:
        raise value_error(f"q has batch size {batch}; packed sequences have 1")
    for longest in (problem.max_seqlen_q, problem.max_seqlen_k):
        if has_static_value(longest) and not 0 <= longest <= POSITIONS:
            raise value_error(f"max_seqlen is {longest}; allowed are 0 to {POSITIONS}")
