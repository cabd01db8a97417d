"""Causality by indices of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Extent, Grid, Pattern
from .checks import check_broadcast, check_device, check_tensor, four, shape_of

_TILE = 64
_LEAST, _MOST = -(2**31), 2**31 - 1


@dataclass(frozen=True, eq=False)
class IndexCausal(Pattern):
    """k_idx[b, h, column] <= q_idx[b, h, row]: causal in indices that the tensors bring along.

    q_idx, k_idx: of any integer dtype, broadcastable to (B, Hq, Nq) and (B, Hq, Nk), on the inputs' device. They serve
    sequences whose tokens were selected, sorted or merged. Values outside of int32 count as its ends. Whole tiles of
    64 x 64 scores are skipped by their ranges, so ascending indices are the fast case. TypeError for other dtypes,
    ValueError for other shapes, devices and for packed sequences. Compares by identity.
    The rule of Pagliardini et al. 2023, "Fast Attention Over Long Sequences With Dynamic Sparse Flash Attention".
    """

    name: ClassVar[str] = "index_causal"
    one_operation: ClassVar[bool] = True

    q_idx: Tensor
    k_idx: Tensor

    def __post_init__(self):
        for name, index in (("q_idx", self.q_idx), ("k_idx", self.k_idx)):
            check_tensor(name, index, 1, 3, "(batch, heads, length)")
            if index.dtype is torch.bool or index.is_floating_point() or index.is_complex():
                raise TypeError(f"{name}: expected an integer dtype, got {index.dtype}")
        check_device("k_idx", self.k_idx, self.q_idx.device)

    def __repr__(self) -> str:
        q_idx, k_idx = (f"<{str(t.dtype).removeprefix('torch.')} {shape_of(t)}>" for t in (self.q_idx, self.k_idx))
        return f"IndexCausal(q_idx={q_idx}, k_idx={k_idx})"

    def check(self, Nq: int, Nk: int) -> None:
        check_broadcast("q_idx", self.q_idx.shape[-1:], (Nq,), "one index a query")
        check_broadcast("k_idx", self.k_idx.shape[-1:], (Nk,), "one index a key")

    def fit(self, extent: Extent) -> None:
        if extent.packed:
            raise ValueError("IndexCausal: has an index a row of the tensors, which packed sequences do not share")
        self.check(extent.queries, extent.keys)
        for name, index in (("q_idx", self.q_idx), ("k_idx", self.k_idx)):
            check_device(name, index, extent.device)
            check_broadcast(name, _three(index).shape[:2], (extent.batch, extent.heads), "(batch, heads)")

    def shapes(self, extent: Extent) -> list[tuple[int, ...]]:
        q_lead, k_lead = (_three(index).shape[:2] for index in (self.q_idx, self.k_idx))
        rows, columns = ((length + _TILE - 1) // _TILE for length in (extent.queries, extent.keys))
        indices = [(*q_lead, extent.queries), (*k_lead, extent.keys)]
        return [*indices, (*q_lead, rows, 2), (*k_lead, columns, 2)]

    def tensors(self, extent: Extent) -> list[Tensor]:
        self.fit(extent)
        indices = []
        for index, length in ((self.q_idx, extent.queries), (self.k_idx, extent.keys)):
            index = _three(index)
            indices.append(_int32(index).expand(*index.shape[:2], length).contiguous())
        return [*indices, *(_ranges(index) for index in indices)]

    def keep(self, grid: Grid) -> Tensor:
        q_idx, k_idx = (_int32(_three(index)) for index in (self.q_idx, self.k_idx))
        rows, columns = (line.flatten().to(q_idx.device) for line in (grid.row, grid.column))
        q_idx = q_idx if q_idx.shape[-1] == 1 else q_idx.index_select(-1, rows)
        k_idx = k_idx if k_idx.shape[-1] == 1 else k_idx.index_select(-1, columns)
        return four(k_idx[..., None, :] <= q_idx[..., :, None]).to(grid.row.device)


def _three(index: Tensor) -> Tensor:
    return index[(None,) * (3 - index.dim())]


def _int32(index: Tensor) -> Tensor:
    return index.long().clamp(_LEAST, _MOST).to(torch.int32)


def _ranges(index: Tensor) -> Tensor:
    """(B, H, n) to (B, H, ceil(n / 64), 2): least and largest index of every 64."""
    padding = (0, -index.shape[-1] % _TILE)
    least = torch.nn.functional.pad(index, padding, value=_MOST).unflatten(-1, (-1, _TILE)).amin(-1)
    most = torch.nn.functional.pad(index, padding, value=_LEAST).unflatten(-1, (-1, _TILE)).amax(-1)
    return torch.stack([least, most], -1)
