"""What goes through a transformers model as its attention mask: a pattern, and a tensor where it is used as one."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import parse_to
from ..patterns import Pattern


class Packing(NamedTuple):
    """Sequences among B * Nq rows and B * Nk keys, as attention_varlen() takes them.

    Padding is packed too, as sequences of rows without keys, which are 0, and of keys without rows, which nothing
    reads. So nothing is moved in memory, and the number of sequences does not depend on the data.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int


class Mask:
    """What travels as `attention_mask` from a model's mask creation to its attention.

    shape: (B, 1, Nq, Nk). pattern: the scores that the model keeps. q_start, k_start: positions of the first row and
    the first key; kv_lengths (B,) stands for q_start where only the device knows it.
    packing: where the real tokens are, None where all are; padded rows are 0. key_packing: the same with all rows
    real, for a mask that does not tell whether rows stand at keys (self-attention) or not (cross-attention).
    origin: whether position 0 is the first real token, as patterns of absolute positions take it.

    Models that compute with their mask get a tensor: it is the one that the eager implementation would have had, of
    that shape, 0 where a score is kept and the lowest number of its dtype elsewhere. It is made when something first
    asks for it: indexing, arithmetic, any method of a tensor, any function of torch. A slice of rows or keys stays a
    Mask. What is written into the tensor counts for the attention, too.
    dense(): makes that tensor. rows(first, count, keys): the Mask of a slice. dtype, device: the tensor's.
    """

    shape = torch.Size()  # defaults here, for torch.compile asks for a field before __init__ has set it
    pattern: Pattern | None = None
    q_start: int | None = None
    k_start = 0
    kv_lengths: Tensor | None = None
    packing: Packing | None = None
    key_packing: Packing | None = None
    origin = True
    dtype = torch.float32
    device = torch.device("cpu")
    _dense: Callable[[], Tensor] | None = None
    _part: Callable[[int, int, int], Mask] | None = None
    _tensor: Tensor | None = None
    _version = 0

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        pattern: Pattern,
        q_start: int | None = None,
        k_start: int = 0,
        kv_lengths: Tensor | None = None,
        packing: Packing | None = None,
        key_packing: Packing | None = None,
        origin: bool = True,
        dense: Callable[[], Tensor] | None = None,
        part: Callable[[int, int, int], Mask] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self.shape = torch.Size(shape)
        self.pattern = pattern
        self.q_start = q_start
        self.k_start = k_start
        self.kv_lengths = kv_lengths
        self.packing = packing
        self.key_packing = key_packing
        self.origin = origin
        self.dtype = dtype
        self.device = torch.device(device)
        self._dense = dense
        self._part = part

    @property
    def __class__(self) -> type:
        """A tensor to transformers, whose models ask isinstance(mask, torch.Tensor) before they use it as one.

        To torch, which needs real ones (under torch.compile, in autograd functions, in FSDP), it is none.
        """
        asking = sys._getframe(1).f_globals.get("__name__", "")
        return Tensor if asking.startswith("transformers") else Mask

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in (torch.logical_not, torch.bitwise_not) and not kwargs:
            return args[0].logical_not()
        return function(*_without_masks(args), **_without_masks(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"'Mask' object has no attribute {name!r}")
        return getattr(self.tensor(), name)

    def __repr__(self) -> str:
        return f"Mask(shape={tuple(self.shape)}, pattern={self.pattern!r}, q_start={self.q_start})"

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self):
        return iter(self.tensor())

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tensor()[_without_masks(index)] = value

    def __getitem__(self, index: Any) -> Mask | Tensor:
        """A slice of the last rows or of keys is a Mask, everything else a tensor."""
        span = None if self._part is None or self.written() else self._span(index)
        if span is None:
            return self.tensor()[_without_masks(index)]
        return self if span == (0, *self.shape[2:]) else self._part(*span)

    def _span(self, index: Any) -> tuple[int, int, int] | None:
        """First row, rows and keys of an index that takes the batch and the heads whole, and first keys."""
        index = index if isinstance(index, tuple) else (index,)
        if any(part is Ellipsis for part in index):
            at = next(n for n, part in enumerate(index) if part is Ellipsis)
            index = (*index[:at], *[slice(None)] * (5 - len(index)), *index[at + 1 :])
        if len(index) > 4 or not all(type(part) is slice for part in index):
            return None
        index = (*index, *[slice(None)] * (4 - len(index)))
        spans = [part.indices(size) for part, size in zip(index, self.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in spans):
            return None
        (batch, batch_end, _), (head, _, _), (row, row_end, _), (key, key_end, _) = spans
        if (batch, batch_end, head, key) != (0, self.shape[0], 0, 0):
            return None
        if key_end < self.shape[3] and (self.packing is not None or self.key_packing is not None):
            return None  # rows past the last key would lose what says whether they are padding
        return row, row_end - row, key_end

    def tensor(self) -> Tensor:
        """The mask as (B, 1, Nq, Nk) numbers to add."""
        if self._tensor is None:
            if self._dense is None:
                raise TypeError(f"attention_mask: {self!r} was not made by a mask function and has no tensor")
            self._tensor = self._dense()
            self._version = self._tensor._version
        return self._tensor

    def written(self) -> bool:
        """Whether something was written into the tensor, which then counts."""
        return self._tensor is not None and self._tensor._version != self._version

    def logical_not(self) -> Tensor:
        """bool: where no score is kept. Whoever inverts a mask takes it for one of bools, as the sdpa one is."""
        return self.tensor() != 0

    __invert__ = logical_not

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        return True

    def contiguous(self, *_: Any, **__: Any) -> Mask:
        return self

    def detach(self) -> Mask:
        return self

    def to(self, *args: Any, **kwargs: Any) -> Mask | Tensor:
        """A Mask where only a device is named, a tensor where a dtype is."""
        device, dtype, non_blocking, _ = parse_to(*_without_masks(args), **_without_masks(kwargs))
        if dtype is not None or self.written():
            return self.tensor().to(*_without_masks(args), **_without_masks(kwargs))
        if device is None or device == self.device:
            return self

        def moved(value: Any) -> Any:
            if isinstance(value, Packing):
                return Packing(*map(moved, value))
            return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value

        def dense() -> Tensor:
            return self.tensor().to(device, non_blocking=non_blocking)

        def part(*span: int) -> Mask:
            return self._part(*span).to(device, non_blocking=non_blocking)

        fields = {name: moved(getattr(self, name)) for name in ("kv_lengths", "packing", "key_packing")}
        return self.replace(**fields, device=device, dense=self._dense and dense, part=self._part and part)

    def replace(self, **changes: Any) -> Mask:
        """The same with other fields."""
        names = ("shape", "pattern", "q_start", "k_start", "kv_lengths", "packing", "key_packing", "origin")
        names += ("dtype", "device")
        fields = {name: getattr(self, name) for name in names} | {"dense": self._dense, "part": self._part}
        return Mask(**fields | changes)


def is_mask(value: Any) -> bool:
    return type(value) is Mask


def _without_masks(value: Any) -> Any:
    """The same arguments with tensors in place of Masks."""
    if is_mask(value):
        return value.tensor()
    if type(value) in (tuple, list):
        return type(value)(_without_masks(part) for part in value)
    if type(value) is dict:
        return {name: _without_masks(part) for name, part in value.items()}
    return value


def _computed(function: Callable) -> Callable:
    def method(self: Mask, *args: Any) -> Any:
        return function(self.tensor(), *_without_masks(args))

    return method


def _reflected(function: Callable) -> Callable:
    def method(self: Mask, other: Any) -> Any:
        return function(_without_masks(other), self.tensor())

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "matmul"):
    _function, _bare = getattr(operator, _name), _name.rstrip("_")
    setattr(Mask, f"__{_bare}__", _computed(_function))
    setattr(Mask, f"__r{_bare}__", _reflected(_function))
for _name in ("neg", "pos", "abs", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Mask, f"__{_name}__", _computed(getattr(operator, _name)))
Mask.__hash__ = object.__hash__
