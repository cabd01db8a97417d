"""Causality by indices of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._constants import INDEX_GROUP
from .base import Extent, Grid, Pattern
from .checks import check_broadcast, check_device, check_tensor, four, shape_of, together
from .opaque import register

_LEAST, _MOST = -(2**31), 2**31 - 1
_NARROW = frozenset((torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16))
_WIDE = frozenset((torch.int64, torch.uint32))


@dataclass(frozen=True, eq=False)
class IndexCausal(Pattern):
    """k_idx[b, h, column] <= q_idx[b, h, row]: causal in indices that the tensors bring along.

    q_idx, k_idx: of any integer dtype but uint64, broadcastable to (B, Hq, Nq) and (B, Hq, Nk), on the inputs' device.
    They serve sequences whose tokens were selected, sorted or merged, or carry times. Whole tiles of 64 x 64 scores are
    skipped by their ranges, so ascending indices are the fast case. Of int64 and uint32 the kernels get ranks, for
    which the shorter of both is sorted; int32 spares that. TypeError for other dtypes, ValueError for other shapes,
    devices and for packed sequences. Compares by identity.
    The rule of Pagliardini et al. 2023, "Fast Attention Over Long Sequences With Dynamic Sparse Flash Attention".
    """

    name: ClassVar[str] = "index_causal"

    q_idx: Tensor
    k_idx: Tensor

    def __post_init__(self):
        for name, index in (("q_idx", self.q_idx), ("k_idx", self.k_idx)):
            check_tensor(name, index, 1, 3, "(batch, heads, length)")
            if index.dtype not in _NARROW and index.dtype not in _WIDE:
                allowed = "an integer dtype that int64 holds" if index.dtype is torch.uint64 else "an integer dtype"
                raise TypeError(f"{name}: expected {allowed}, got {index.dtype}")
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

    def tensors(self, extent: Extent) -> list[Tensor]:
        self.fit(extent)
        q_idx, k_idx = comparable(_three(self.q_idx), _three(self.k_idx))
        q_idx = q_idx.expand(-1, -1, extent.queries).contiguous()
        k_idx = k_idx.expand(-1, -1, extent.keys).contiguous()
        return [q_idx, k_idx, _ranges(q_idx), _ranges(k_idx)]

    def tensors_in_graphs(self, extent: Extent) -> Sequence[Tensor]:
        self.fit(extent)
        return torch.ops.splash.index_ranges(self.q_idx, self.k_idx, extent.queries, extent.keys)

    def keep(self, grid: Grid) -> Tensor:
        q_idx, rows = together(_three(self.q_idx).long(), grid.row.flatten())
        k_idx, columns = together(_three(self.k_idx).long(), grid.column.flatten())
        q_idx = q_idx if q_idx.shape[-1] == 1 else q_idx.index_select(-1, rows)
        k_idx = k_idx if k_idx.shape[-1] == 1 else k_idx.index_select(-1, columns)
        return four(k_idx[..., None, :] <= q_idx[..., :, None]).to(grid.row.device)


def comparable(q_idx: Tensor, k_idx: Tensor) -> tuple[Tensor, Tensor]:
    """int32 tensors of (B or 1, H or 1, N) that say what integers of these shapes say: which k_idx <= q_idx.

    Of wide integers these are ranks among the indices of one side, sorted: how many of k_idx lie up to an index, or how
    many of q_idx below it.
    """
    if q_idx.dtype in _NARROW and k_idx.dtype in _NARROW:
        return q_idx.to(torch.int32), k_idx.to(torch.int32)
    q_idx, k_idx = q_idx.long().contiguous(), k_idx.long().contiguous()
    lead = torch.broadcast_shapes(q_idx.shape[:2], k_idx.shape[:2])
    if k_idx.shape[:2] == lead and (q_idx.shape[:2] != lead or q_idx.shape[2] < k_idx.shape[2]):
        k_idx, q_idx = _ranks(k_idx, q_idx, lead, right=False)
    else:
        q_idx, k_idx = _ranks(q_idx, k_idx, lead, right=True)
    return q_idx, k_idx


def _leads(q_idx: Tensor, k_idx: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Batches and heads of what comparable() makes of these."""
    q_lead, k_lead = tuple(q_idx.shape[:2]), tuple(k_idx.shape[:2])
    if q_idx.dtype in _NARROW and k_idx.dtype in _NARROW:
        return q_lead, k_lead
    lead = tuple(torch.broadcast_shapes(q_lead, k_lead))
    return (q_lead if k_lead in (lead, (1, 1)) else lead), k_lead


@register("index_ranges")
def _shapes(q_idx, k_idx, queries, keys):
    q_lead, k_lead = _leads(_three(q_idx), _three(k_idx))
    rows, columns = ((length + INDEX_GROUP - 1) // INDEX_GROUP for length in (queries, keys))
    return [(*q_lead, queries), (*k_lead, keys), (*q_lead, rows, 2), (*k_lead, columns, 2)]


def _ranks(values: Tensor, of: Tensor, lead: tuple[int, int], right: bool) -> tuple[Tensor, Tensor]:
    """Both as ranks among `of`. Tensors whose batches and heads are not all of `lead` stay so where they can."""
    ordered = of.sort(-1).values
    own = torch.searchsorted(ordered, of, right=right, out_int32=True)
    if ordered.shape[:2] == (1, 1):
        ordered = ordered[0, 0]
    elif not ordered.shape[:2] == values.shape[:2] == lead:
        ordered, values = (tensor.expand(*lead, -1).contiguous() for tensor in (ordered, values))
    return torch.searchsorted(ordered, values, right=right, out_int32=True), own


def _three(index: Tensor) -> Tensor:
    return index[(None,) * (3 - index.dim())]


def _ranges(index: Tensor) -> Tensor:
    """(B, H, n) to (B, H, ceil(n / 64), 2): least and largest index of every 64."""
    padding = (0, -index.shape[-1] % INDEX_GROUP)
    least = torch.nn.functional.pad(index, padding, value=_MOST).unflatten(-1, (-1, INDEX_GROUP)).amin(-1)
    most = torch.nn.functional.pad(index, padding, value=_LEAST).unflatten(-1, (-1, INDEX_GROUP)).amax(-1)
    return torch.stack([least, most], -1)
