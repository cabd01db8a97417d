"""torch.vmap over the operators: the mapped dimension joins the batch, so one call serves all of it.

Calls with parameters (their gradients are sums over the batch), with tensors of a pattern that are no tables with an
own batch, or with packed sequences (they have no batch) are made one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .ops import Problem

_PROBLEM = len(Problem._fields)
_BATCHED = ("full", "causal", "sliding_window", "block_mask")
"""Patterns without tensors, or with tensors whose first dimension is the batch."""


@dataclass(frozen=True)
class _Fold:
    """`size` mapped calls with `batch` entries each, as one call with size * batch entries."""

    size: int
    batch: int

    def __call__(self, tensor: Tensor | None, dim: int | None, axis: int = 0) -> Tensor | None:
        """dim: the mapped dimension, None where there is none. axis: that of the batch in a single call's tensor."""
        if tensor is None:
            return None
        tensor = tensor.unsqueeze(axis) if dim is None else tensor.movedim(dim, axis)
        sizes = [*tensor.shape[:axis], self.size, self.batch, *tensor.shape[axis + 2 :]]
        return tensor.expand(sizes).flatten(axis, axis + 1).contiguous()

    def all(self, arguments, dims) -> list:
        """The arguments of an operator, with each of their tensors folded."""
        return [self._argument(*pair) for pair in zip(arguments, dims, strict=True)]

    def _argument(self, argument, dim):
        if isinstance(argument, (list, tuple)):
            return [self._argument(item, None if dim is None else dim[n]) for n, item in enumerate(argument)]
        return self(argument, dim) if isinstance(argument, Tensor) else argument

    def undo(self, tensor: Tensor, axis: int = 0) -> Tensor:
        return tensor.unflatten(axis, (self.size, self.batch))


def fold_batch(info, q: Tensor, dim: int | None) -> _Fold:
    return _Fold(info.batch_size, q.shape[0] if dim is None else q.movedim(dim, 0).shape[1])


def _one_by_one(arguments) -> bool:
    problem = Problem(*arguments[-_PROBLEM:])
    if problem.normalizer_parameters or problem.cu_seqlens_q is not None:
        return True
    return any(name not in _BATCHED for name in problem.pattern.split("&")) and bool(problem.pattern_tensors)


def _loop(operator, info, dims, arguments):
    """One call an entry of the mapped dimension; results are stacked along a new first one."""
    calls = [operator(*_entry(arguments, dims, n)) for n in range(info.batch_size)]
    results = [_stack(parts) for parts in zip(*calls, strict=True)]
    return tuple(results), tuple([0] * len(part) if isinstance(part, list) else 0 for part in results)


def _entry(argument, dim, n):
    if isinstance(argument, (list, tuple)):
        return [_entry(item, None if dim is None else dim[at], n) for at, item in enumerate(argument)]
    return argument.select(dim, n) if isinstance(argument, Tensor) and dim is not None else argument


def _stack(parts):
    if isinstance(parts[0], list):
        return [torch.stack(tensors) for tensors in zip(*parts, strict=True)]
    return torch.stack(parts)


@torch.library.register_vmap("splash::attention_forward")
def _(info, in_dims, *arguments):
    operator = torch.ops.splash.attention_forward
    if _one_by_one(arguments):
        return _loop(operator, info, in_dims, arguments)
    fold = fold_batch(info, arguments[0], in_dims[0])
    out, statistic, saved = operator(*fold.all(arguments, in_dims))
    return (fold.undo(out), fold.undo(statistic), fold.undo(saved, 1)), (0, 0, 1)


@torch.library.register_vmap("splash::attention_backward")
def _(info, in_dims, *arguments):
    operator = torch.ops.splash.attention_backward
    if _one_by_one(arguments):
        return _loop(operator, info, in_dims, arguments)
    fold = fold_batch(info, arguments[2], in_dims[2])
    saved = fold(arguments[7], in_dims[7], axis=1)
    others = fold.all((*arguments[:7], *arguments[8:]), (*in_dims[:7], *in_dims[8:]))
    *gradients, of_parameters = operator(*others[:7], saved, *others[7:])
    return (*(fold.undo(gradient) for gradient in gradients), of_parameters), (0, 0, 0, [])
