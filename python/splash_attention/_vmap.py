"""torch.vmap over the operators: the mapped dimension joins the batch, so one call serves all of it.

The same rules serve the older mechanism behind is_grads_batched=True and torch.autograd.functional's vectorize=True.
Calls with parameters (their gradients are sums over the batch), with tensors of a pattern that are no tables with an
own batch, or with packed sequences (they have no batch) are made one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ._torch import (
    BATCHED,
    add_batch_dim,
    argument_names,
    dispatch_keys,
    remove_batch_dim,
    tree_flatten,
    tree_unflatten,
)
from .ops import Problem
from .patterns import Pattern, opaque

_library = torch.library.Library("splash", "IMPL")


class _Info(NamedTuple):
    """What a rule reads of Torch's own."""

    batch_size: int


def batching_rule(operator: str) -> Callable:
    """Registers rule(info, in_dims, *arguments) -> (results, out_dims), as torch.library.register_vmap has it."""

    def register(rule):
        torch.library.register_vmap(f"splash::{operator}", rule)
        _library.impl(operator, _for_batched_gradients(rule), "Batched")
        return rule

    return register


def _for_batched_gradients(rule: Callable) -> Callable:
    """The rule as a kernel for the tensors that is_grads_batched=True makes, which torch.func knows nothing of.

    Their levels are counted from 1. Those that some argument has are taken off it from the first on; the rule is for
    the last of them, the others come back with the call that it makes.
    """

    def kernel(*arguments):
        leaves, spec = tree_flatten(arguments)
        levels = [_levels(leaf) if isinstance(leaf, Tensor) else {} for leaf in leaves]
        last = max(max(sizes, default=0) for sizes in levels)
        size = next(sizes[last] for sizes in levels if last in sizes)
        mapped = [last in sizes for sizes in levels]
        leaves = [
            remove_batch_dim(leaf, last, size, 0) if has else leaf for leaf, has in zip(leaves, mapped, strict=True)
        ]
        in_dims = tree_unflatten([0 if has else None for has in mapped], spec)
        results, out_dims = rule(_Info(size), in_dims, *tree_unflatten(leaves, spec))
        return _wrapped(results, out_dims, last)

    return kernel


def _wrapped(results, dims, level):
    if isinstance(results, Tensor):
        return add_batch_dim(results, dims, level)
    dims = dims if isinstance(dims, (list, tuple)) else [dims] * len(results)
    return type(results)(_wrapped(*pair, level) for pair in zip(results, dims, strict=True))


def _levels(tensor: Tensor) -> dict[int, int]:
    """{level: size} of a batched tensor. Torch tells neither; to take off a level that is not there adds a dimension
    of the size that is asked for."""
    found, level = {}, 1
    while dispatch_keys(tensor).has(BATCHED):
        one, two = (remove_batch_dim(tensor, level, size, 0) for size in (1, 2))
        if one.shape[0] == two.shape[0]:
            found[level] = one.shape[0]
            tensor = one
        level += 1
    return found


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

    def all(self, arguments, dims, axes: dict[int, int] | None = None) -> list:
        """The arguments of an operator, with each of their tensors folded. axes: the batch's, where it is not 0, by the
        argument's place."""
        axes = axes or {}
        pairs = enumerate(zip(arguments, dims, strict=True))
        return [self._argument(*pair, axes.get(place, 0)) for place, pair in pairs]

    def _argument(self, argument, dim, axis=0):
        if isinstance(argument, (list, tuple)):
            return [self._argument(item, None if dim is None else dim[n]) for n, item in enumerate(argument)]
        return self(argument, dim, axis) if isinstance(argument, Tensor) else argument

    def undo(self, tensor: Tensor, axis: int = 0) -> Tensor:
        return tensor.unflatten(axis, (self.size, self.batch))


def fold_batch(info, q: Tensor, dim: int | None) -> _Fold:
    return _Fold(info.batch_size, q.shape[0] if dim is None else q.movedim(dim, 0).shape[1])


def _one_by_one(arguments) -> bool:
    problem = Problem._make(arguments[-len(Problem._fields) :])
    if problem.normalizer_parameters or problem.cu_seqlens_q is not None:
        return True
    return bool(problem.pattern_tensors) and not all(map(_folds, problem.pattern.split("&")))


def _folds(name: str) -> bool:
    """Whether the pattern has no tensors, or a batch entry of them for each of q."""
    kind = opaque.KINDS.get(name)
    return kind is not None and (kind.tensors is Pattern.tensors or kind.tensors_by_batch)


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


@batching_rule("attention_forward")
def _(info, in_dims, *arguments):
    operator = torch.ops.splash.attention_forward
    if _one_by_one(arguments):
        return _loop(operator, info, in_dims, arguments)
    q = argument_names(operator.default).index("q")
    fold = fold_batch(info, arguments[q], in_dims[q])
    out, statistic, saved = operator(*fold.all(arguments, in_dims))
    return (fold.undo(out), fold.undo(statistic), fold.undo(saved, 1)), (0, 0, 1)


@batching_rule("attention_backward")
def _(info, in_dims, *arguments):
    operator = torch.ops.splash.attention_backward
    if _one_by_one(arguments):
        return _loop(operator, info, in_dims, arguments)
    q, saved = map(argument_names(operator.default).index, ("q", "saved"))
    fold = fold_batch(info, arguments[q], in_dims[q])
    *gradients, of_parameters = operator(*fold.all(arguments, in_dims, {saved: 1}))
    return (*(fold.undo(gradient) for gradient in gradients), of_parameters), (0, 0, 0, [])
