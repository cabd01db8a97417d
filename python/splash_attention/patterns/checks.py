"""Checks and shapes that several patterns need."""

from __future__ import annotations

from torch import Tensor


def four(kept: Tensor) -> Tensor:
    return kept[(None,) * (4 - kept.dim())]


def shape_of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def check_number(name: str, value: int | None, low: int, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int{' or None' if optional else ''}, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name}: expected at least {low}, got {value}")


def check_broadcast(name: str, sizes, target, what: str) -> None:
    for size, wanted in zip(sizes, target, strict=True):
        if size != 1 and size != wanted:
            raise ValueError(f"{name}: {tuple(sizes)} does not broadcast to {tuple(target)}, {what}")
