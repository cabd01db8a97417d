"""What a problem cannot do without: its bytes, and the 64 x 64 tiles of scores that hold something kept.

Tiles are counted in the layout that suits the pattern best. Dilated windows are windows within a residue class of the
positions. Strided is a window and, further back, each residue class for itself. Fixed is blocks on the diagonal and the
summary columns gathered side by side. LongNet is dense within the tokens of a segment, packed sequences within a
sequence. All others stand as they are. Where a head has fewer queries than a tile, those of a group share tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splash_attention.patterns import BlockMask, Dilated, Fixed, IndexCausal, Strided

from .case import OPERATIONS, Case
from .longnet import LongNet
from .packed import Packed

TILE = 64
FAR = 2**40  # beyond every index


@dataclass(frozen=True)
class Work:
    """Of one pass. bytes: what it reads and writes, once each. tiles: of scores, over the batch and all heads.
    operations: how many times D of them a score takes."""

    bytes: int
    tiles: int
    head_dim: int
    operations: int = OPERATIONS["fwd"]

    @property
    def flops(self) -> int:
        """Of every score of the tiles."""
        return self.operations * self.head_dim * TILE * TILE * self.tiles


def work(case: Case) -> dict[str, Work]:
    """By pass. The forward moves q, k, v and the output; the backward these, and a gradient of each."""
    q, k, v = case.qkv
    tensors = (2 * q.numel() + k.numel() + v.numel()) * q.element_size()
    moved = {"fwd": tensors, "bwd": 2 * tensors}
    tiles = count(case)
    return {name: Work(moved[name], tiles, case.sizes.head_dim, times) for name, times in OPERATIONS.items()}


def count(case: Case) -> int:
    """Tiles over the batch and all heads."""
    pattern, sizes = case.pattern, case.sizes
    rows, keys = sizes.rows, sizes.seq_len
    if isinstance(pattern, LongNet):
        return sizes.batch * sum(map(_longnet_head(pattern, keys), range(sizes.heads)))
    each = sizes.batch * _heads(case)
    if isinstance(pattern, Packed):
        return each * sum(band(length, length, None, 0 if pattern.causal else None) for length in pattern.lengths)
    if isinstance(pattern, Dilated) and sizes.square:
        steps = pattern.dilation if isinstance(pattern.dilation, tuple) else (pattern.dilation,) * sizes.heads
        return sizes.batch * sum(_dilated(pattern, keys, step) for step in steps)
    if isinstance(pattern, Strided) and sizes.square:
        beyond = -(-pattern.local // pattern.stride)
        classes = _residues(keys, pattern.stride, None, -beyond)
        return each * (band(keys, keys, pattern.local - 1, 0) + classes)
    if isinstance(pattern, Fixed) and sizes.square:
        return each * _fixed(pattern, keys)
    if isinstance(pattern, BlockMask):
        return _over_heads(_of_blocks(pattern, rows, keys), case)
    if isinstance(pattern, IndexCausal):
        return _over_heads(_of_indices(pattern), case)
    if pattern.band() is not None:
        return each * band(rows, keys, *pattern.band())
    return _by_scores(case)


def band(rows: int, keys: int, left: int | None, right: int | None) -> int:
    """Tiles of i - left <= j <= i + right (None: unlimited), where the last row stands at the last key."""
    first = torch.arange(0, rows, TILE)
    last = (first + TILE - 1).clamp(max=rows - 1)
    shift = keys - rows
    low = torch.zeros_like(first) if left is None else (first + shift - left).clamp(min=0)
    high = torch.full_like(last, keys - 1) if right is None else (last + shift + right).clamp(max=keys - 1)
    return int((high // TILE - low // TILE + 1)[high >= low].sum())


def _heads(case: Case) -> int:
    """How many heads' worth of rows of tiles there are."""
    sizes = case.sizes
    if sizes.rows >= TILE:
        return sizes.heads
    return sizes.kv_heads * -(-sizes.rows * (sizes.heads // sizes.kv_heads) // TILE)


def _residues(length: int, step: int, left: int | None, right: int | None) -> int:
    """Tiles of a band within every residue class of `length` positions."""
    short, longer = divmod(length, step)  # `longer` classes have one position more
    return longer * band(short + 1, short + 1, left, right) + (step - longer) * band(short, short, left, right)


def _dilated(pattern: Dilated, length: int, step: int) -> int:
    if pattern.causal:
        return _residues(length, step, pattern.window - 1, 0)
    return _residues(length, step, pattern.window, pattern.window)


def _fixed(pattern: Fixed, length: int) -> int:
    first = torch.arange(0, length, TILE)
    last = (first + TILE - 1).clamp(max=length - 1)
    own = last // TILE - first // pattern.stride * pattern.stride // TILE + 1
    earlier = last // pattern.stride * pattern.summary
    return int((own + (earlier + TILE - 1) // TILE).sum())


def _longnet_head(pattern: LongNet, length: int):
    right = 0 if pattern.causal else None

    def tiles(head: int) -> int:
        total = 0
        for segment, rate in pattern.segments:
            for begin in range(0, length, segment):
                tokens = len(range(begin + head % rate, min(begin + segment, length), rate))
                total += band(tokens, tokens, None, right)
        return total

    return tiles


def _over_heads(tiles: Tensor, case: Case) -> int:
    """The sum of bools (B or 1, H or 1, rows, columns) over the batch and all heads."""
    heads = case.sizes.heads if tiles.shape[1] > 1 else _heads(case)
    batch = case.sizes.batch // tiles.shape[0]
    return int(tiles.sum()) * batch * (heads // tiles.shape[1])


def _of_blocks(pattern: BlockMask, rows: int, keys: int) -> Tensor:
    mask = pattern.mask[(None,) * (4 - pattern.mask.dim())]
    mask = mask.expand(*mask.shape[:2], *pattern.blocks(rows, keys))
    for dimension, size, length in ((2, pattern.block[0], rows), (3, pattern.block[1], keys)):
        # The blocks that each tile touches, which are neighbours.
        first = torch.arange(0, length, TILE, device=mask.device)
        last = (first + TILE - 1).clamp(max=length - 1)
        touched = mask.index_select(dimension, first // size)
        for step in range(1, TILE // size + 2):
            touched = touched | mask.index_select(dimension, (first // size + step).minimum(last // size))
        mask = touched
    return mask


def _of_indices(pattern: IndexCausal) -> Tensor:
    q_idx, k_idx = (index[(None,) * (3 - index.dim())].long() for index in (pattern.q_idx, pattern.k_idx))
    most = F.pad(q_idx, (0, -q_idx.shape[-1] % TILE), value=-FAR).unflatten(-1, (-1, TILE)).amax(-1)
    first = F.pad(k_idx, (0, -k_idx.shape[-1] % TILE), value=FAR).unflatten(-1, (-1, TILE)).amin(-1)
    return first[..., None, :] <= most[..., :, None]


def _by_scores(case: Case) -> int:
    """By looking at every score."""
    total = 0
    for kept in case.masks(TILE):
        kept = F.pad(kept, (0, -kept.shape[-1] % TILE, 0, -kept.shape[-2] % TILE))
        total += _over_heads(kept.unflatten(-1, (-1, TILE)).any(-1).unflatten(-2, (-1, TILE)).any(-2), case)
    return total
