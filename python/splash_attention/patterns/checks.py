"""Checks and shapes that several patterns need."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import guard_or_false

from .._constants import UNLIMITED


def limited(value: int) -> int:
    """A window of any size as one that is large enough."""
    return min(value, UNLIMITED)


def four(kept: Tensor) -> Tensor:
    return kept[(None,) * (4 - kept.dim())]


def shape_of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def check_number(name: str, value: int | None, low: int, high: int | None = None, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected an int{' or None' if optional else ''}, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name}: expected at least {low}, got {value}")
    if high is not None and value > high:
        raise ValueError(f"{name}: expected at most {high}, got {value}")


def check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")


def check_numbers(name: str, given, low: int, high: int, high_of_one: int | None) -> int | tuple[int, ...]:
    """An int, up to `high_of_one`, or a list or tuple of ints up to `high` as a tuple."""
    if not isinstance(given, (int, tuple, list)):
        raise TypeError(f"{name}: expected an int or a tuple of ints, got {type(given).__name__}")
    if isinstance(given, int):
        check_number(name, given, low, high_of_one)
        return given
    for number in given:
        check_number(name, number, low, high)
    return tuple(given)


def check_broadcast(name: str, sizes, target, what: str) -> None:
    for size, wanted in zip(sizes, target, strict=True):
        # Sizes that only the running graph knows are left to the kernels.
        if not guard_or_false(size == 1) and guard_or_false(size != wanted):
            raise ValueError(f"{name}: {tuple(sizes)} does not broadcast to {tuple(target)}, {what}")


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name}: expected the inputs' device {device}, got {tensor.device}")


def together(tensor: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
    """All of them where the tensor is, or, as shapes alone, where indices without values are."""
    device = indices[0].device if indices[0].is_meta else tensor.device
    return tensor.to(device), *(index.to(device) for index in indices)


def check_tensor(name: str, tensor: Tensor, least: int, most: int, what: str) -> None:
    """A tensor of `least` to `most` dimensions."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if not least <= tensor.dim() <= most:
        dimensions = f"{least} dimensions" if least == most else f"{least} to {most} dimensions"
        raise ValueError(f"{name}: expected {dimensions}, {what}, got {shape_of(tensor)}")


def check_block(block) -> tuple[int, int]:
    """b or (bm, bn), multiples of 16, as a pair."""
    pair = tuple(block) if isinstance(block, (tuple, list)) else (block, block)
    if any(isinstance(b, bool) or not isinstance(b, int) for b in pair):
        raise TypeError(f"block: expected an int or a pair of ints, got {block!r}")
    if len(pair) != 2 or any(b < 16 or b % 16 or b > UNLIMITED for b in pair):
        raise ValueError(f"block: expected a multiple of 16 or a pair of them, got {block}")
    return pair
