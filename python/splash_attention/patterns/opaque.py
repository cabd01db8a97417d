"""Metadata by operators of the compiled library: graphs hold one operation instead of the dozens that it takes.

They need no Python where a graph runs, and no size ties the graph to the example that it was made with. Calls that are
not traced do without: there Torch's own operations count what only values tell, and keep what comes again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value

from .. import _fakes
from .._torch import DynamicOutputShapeException, tree_map
from .._values import compiling

KINDS: dict[str, type] = {}
"""The classes of patterns by their names, which they put here themselves."""


def tensors_of(pattern, extent) -> list[Tensor]:
    """pattern.tensors(extent), in graphs by an operator where the pattern has one."""
    if not compiling() or type(pattern) is not KINDS[pattern.name]:  # a class of the caller's may have changed them
        return pattern.tensors(extent)
    return list(pattern.tensors_in_graphs(extent))


def register(name: str, dtype: torch.dtype = torch.int32) -> Callable[[Callable], Callable]:
    """Decorator of shapes(*arguments), those of the results of torch.ops.splash.NAME: one for each, all contiguous and
    of the dtype, on the device of the first argument. Raises what the operator refuses without values."""

    def decorate(shapes: Callable[..., list[tuple[int, ...]]]) -> Callable:
        def fake(*arguments):
            _fakes.check_tensor(argument_of(name), arguments[0])
            made = [arguments[0].new_empty([*map(free_size, shape)], dtype=dtype) for shape in shapes(*arguments)]
            return made[0] if len(made) == 1 else tuple(made)

        torch.library.register_fake(f"splash::{name}", fake)
        register_one_by_one(name)
        return shapes

    return decorate


def argument_of(name: str) -> str:
    """What the operator calls its first argument."""
    return getattr(torch.ops.splash, name).default._schema.arguments[0].name


def register_one_by_one(name: str) -> None:
    """torch.vmap makes one call of the operator for each entry of the mapped dimension."""
    overload = getattr(torch.ops.splash, name).default

    def entry(argument, dim, n):
        if isinstance(argument, (list, tuple)):
            return [entry(item, None if dim is None else dim[at], n) for at, item in enumerate(argument)]
        return argument if dim is None else argument.select(dim, n)

    def rule(info, in_dims, *arguments):
        calls = [overload(*entry(arguments, in_dims, n)) for n in range(info.batch_size)]
        stacked = tree_map(lambda *parts: torch.stack(parts), *calls)
        return stacked, tree_map(lambda _: 0, stacked)

    torch.library.register_vmap(f"splash::{name}", rule)


def free_size(size: int) -> int:
    """A size that no graph depends on, where graphs know such: only kernels read it, and Torch would tie a graph to
    whether it is 1."""
    if has_static_value(size):
        return size
    try:
        return torch.library.get_ctx().new_dynamic_size(min=0)
    except DynamicOutputShapeException:
        return size
