"""Metadata as operators of their own: graphs hold one operation instead of the dozens that it takes.

Calls that are not traced need no operator, and do without. See wants_operators().
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value

from .._torch import DynamicOutputShapeException, tree_map
from .._values import as_traced, compiling, wants_operators
from .extent import Extent

_INT64 = 2**63
KINDS: dict[str, type] = {}
"""The classes of patterns by their names, which they put here themselves."""


def operator(schema: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Decorator: torch.compile sees the function as torch.ops.splash.NAME, everybody else as it is.

    schema: of arguments and results, which have no gradients. fake: the results' likes, from the same arguments.
    """

    def decorate(function: Callable) -> Callable:
        name = f"splash::{function.__name__.strip('_')}"

        def run(*args):
            with as_traced():
                return _own(function(*args), args)

        torch.library.custom_op(name, run, mutates_args=(), schema=schema)
        torch.library.register_fake(name, fake)
        overload = getattr(torch.ops.splash, name.removeprefix("splash::")).default
        register_one_by_one(name)

        @functools.wraps(function)
        def call(*args):
            tensors = [argument for argument in args if isinstance(argument, Tensor)]
            numbers = [argument for argument in args if isinstance(argument, (int, torch.SymInt))]
            return overload(*args) if wants_operators(tensors, numbers) else function(*args)

        return call

    return decorate


def tensors_of(pattern, extent) -> list[Tensor]:
    """pattern.tensors(extent), which torch.compile sees as one operation where the pattern says so."""
    if not (pattern.one_operation and compiling()):
        return pattern.tensors(extent)
    if type(pattern) is not KINDS[pattern.name]:  # a class of the caller's, which could not be restored
        return pattern.tensors(extent)
    codes, numbers, tensors = _flatten((*_fields(pattern), *extent))
    if not wants_operators(tensors, numbers):
        return pattern.tensors(extent)
    pattern.fit(extent)
    anchor = torch.empty(0, device=extent.device)
    return torch.ops.splash.pattern_tensors(anchor, tensors, pattern.name, codes, numbers)


def _rebuild(anchor: Tensor, tensors: Sequence[Tensor], name: str, codes: str, numbers: Sequence[int]):
    values = _unflatten(codes, iter(numbers), iter(tensors), anchor.device)
    kind = KINDS[name]
    own = len(kind.__match_args__)
    return kind.restored(values[:own]), Extent(*values[own:])


def _fields(pattern) -> list:
    return [getattr(pattern, field) for field in pattern.__match_args__]


def _flatten(values: Sequence) -> tuple[str, list[int], list[Tensor]]:
    """A letter a value, and the numbers and tensors among them."""
    codes, numbers, tensors = "", [], []
    for value in values:
        if value is None:
            codes += "n"
        elif isinstance(value, Tensor):
            codes += "t"
            tensors.append(value)
        elif isinstance(value, torch.device):
            codes += "d"
        elif isinstance(value, bool):
            codes += "+" if value else "-"
        elif isinstance(value, (tuple, list)):
            inner = _flatten(value)
            codes += f"({inner[0]})"
            numbers += inner[1]
            tensors += inner[2]
        elif type(value) is int and value >= _INT64:
            codes += "u"
            numbers.append(value - 2 * _INT64)
        else:
            codes += "i"
            numbers.append(value)
    return codes, numbers, tensors


def _unflatten(codes: str, numbers, tensors, device: torch.device) -> list:
    levels = [[]]
    for code in codes:
        if code == "(":
            levels.append([])
            continue
        if code == ")":
            value = tuple(levels.pop())
        elif code == "t":
            value = next(tensors)
        elif code in "iu":
            value = next(numbers) + (2 * _INT64 if code == "u" else 0)
        else:
            value = {"n": None, "d": device, "+": True, "-": False}[code]
        levels[-1].append(value)
    return levels[0]


def _own(results, arguments):
    """Contiguous results in memory of their own, as compiled graphs expect of an operator."""
    seen = {tensor.untyped_storage()._cdata for tensor in _tensors(arguments)}

    def own(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata in seen or not tensor.is_contiguous():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(tensor.untyped_storage()._cdata)
        return tensor

    return own(results) if isinstance(results, Tensor) else [own(tensor) for tensor in results]


def _tensors(arguments):
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _tensors(argument)


def register_one_by_one(name: str) -> None:
    """torch.vmap makes one call of the operator for each entry of the mapped dimension."""
    overload = getattr(torch.ops.splash, name.removeprefix("splash::")).default

    def entry(argument, dim, n):
        if isinstance(argument, (list, tuple)):
            return [entry(item, None if dim is None else dim[at], n) for at, item in enumerate(argument)]
        return argument if dim is None else argument.select(dim, n)

    def rule(info, in_dims, *arguments):
        calls = [overload(*entry(arguments, in_dims, n)) for n in range(info.batch_size)]
        stacked = tree_map(lambda *parts: torch.stack(parts), *calls)
        return stacked, tree_map(lambda _: 0, stacked)

    torch.library.register_vmap(name, rule)


def _fake_tensors(anchor, tensors, name, codes, numbers):
    pattern, extent = _rebuild(anchor, tensors, name, codes, numbers)
    return [anchor.new_empty([*map(free_size, shape)], dtype=torch.int32) for shape in pattern.shapes(extent)]


def free_size(size: int) -> int:
    """A size that no graph depends on, where graphs know such: only kernels read it, and Torch would tie a graph to
    whether it is 1."""
    if has_static_value(size):
        return size
    try:
        return torch.library.get_ctx().new_dynamic_size(min=0)
    except DynamicOutputShapeException:
        return size


@operator("(Tensor anchor, Tensor[] tensors, str name, str codes, SymInt[] numbers) -> Tensor[]", _fake_tensors)
def _pattern_tensors(anchor, tensors, name, codes, numbers):
    """The tensors of the pattern `name`; its fields and those of the problem are taken apart by _flatten()."""
    pattern, extent = _rebuild(anchor, tensors, name, codes, numbers)
    made = pattern.tensors(extent)
    # Fewer batches or heads than a graph was told of, where all turn out to have the same.
    return [tensor.expand(shape) for tensor, shape in zip(made, pattern.shapes(extent), strict=True)]
