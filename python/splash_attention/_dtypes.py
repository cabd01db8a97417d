"""The rule for dtypes, in every function that takes tensors: one dtype, or under autocast whatever it makes one."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast casts floating tensors other than float64 to there, None where it is off."""
    if device.type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def cast(tensor: Tensor) -> Tensor:
    """The tensor as autocast has it."""
    lower = autocast_dtype(tensor.device)
    return tensor if lower is None or tensor.dtype is torch.float64 else tensor.to(lower)


def check_one_dtype(**tensors: Tensor) -> None:
    """TypeError, in the dtypes that were given, where floating tensors on one device would not have one dtype."""
    given = [tensor.dtype for tensor in tensors.values()]
    if all(dtype is given[0] for dtype in given):
        return
    lower = autocast_dtype(next(iter(tensors.values())).device)
    if lower is None:
        rule = "expected one dtype"
    elif torch.float64 in given:
        rule = "expected one dtype (autocast does not cast float64)"
    else:
        return
    got = f"{', '.join(map(str, given[:-1]))} and {given[-1]}"
    raise TypeError(f"{', '.join(tensors)}: {rule}, got {got}")
