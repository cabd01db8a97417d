"""Block masks of torch's flex_attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._values import readable

_CHUNK = 2**24  # scores at once


class Blocks(NamedTuple):
    """A flex_attention BlockMask, as much of it as can be said by blocks and elements.

    whole: (B, H, block rows, block columns), True where a block is kept as a whole. partial: (n, 4), batch, head, block
    row and block column of those that the mask function cuts. inside: (n, bm, bn), what it keeps in them.
    """

    whole: Tensor
    partial: Tensor
    inside: Tensor
    block: tuple[int, int]
    Nq: int
    Nk: int

    def cut(self) -> Tensor:
        """Like `whole`, with the partial blocks."""
        cut = self.whole.clone()
        cut[tuple(self.partial.unbind(1))] = True
        return cut

    def is_causal(self) -> bool:
        """Whether these blocks keep, of what lies in them, exactly j <= i of as many queries as keys."""
        if self.Nq != self.Nk:
            return False
        rows, columns = (self._tokens(side) for side in (0, 1))
        earlier = columns[:, None, :] <= rows[:, :, None]
        if not torch.equal(self.inside | self._outside(), earlier | self._outside()):
            return False
        _, _, row, column = self.whole.nonzero().unbind(1)
        last = ((column + 1) * self.block[1] - 1).clamp(max=self.Nk - 1)
        return bool((last <= row * self.block[0]).all())

    def elements(self) -> Tensor:
        """bool (B, H, Nq, Nk)."""
        bm, bn = self.block
        places = tuple(self.partial.unbind(1))
        batch, heads, rows, columns = self.whole.shape
        tiles = self.whole[..., None, None].expand(batch, heads, rows, columns, bm, bn).clone()
        tiles[places] = self.inside
        dense = tiles.transpose(3, 4).reshape(batch, heads, rows * bm, columns * bn)
        return dense[..., : self.Nq, : self.Nk].contiguous()

    def _tokens(self, side: int) -> Tensor:
        """(n, bm) rows or (n, bn) columns of the partial blocks."""
        size = self.block[side]
        return self.partial[:, 2 + side, None] * size + torch.arange(size, device=self.partial.device)

    def _outside(self) -> Tensor:
        """(n, bm, bn): what lies beyond the last query or key."""
        return (self._tokens(0) >= self.Nq)[:, :, None] | (self._tokens(1) >= self.Nk)[:, None, :]


def blocks_of(block_mask) -> Blocks:
    """TypeError for what is no BlockMask of flex_attention. Waits for its device."""
    from torch.nn.attention import flex_attention  # slow to import, and few need it

    if not isinstance(block_mask, flex_attention.BlockMask):
        raise TypeError(f"block_mask: expected a BlockMask of flex_attention, got {type(block_mask).__name__}")

    partial = _dense(block_mask.kv_num_blocks, block_mask.kv_indices)
    whole = torch.zeros_like(partial)
    if block_mask.full_kv_num_blocks is not None:
        whole = _dense(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    if block_mask.mask_mod is flex_attention.noop_mask:
        whole, cut = whole | partial, torch.zeros((0, 4), dtype=torch.long, device=whole.device)
    elif readable(partial):
        cut = (partial & ~whole).nonzero()
    else:
        raise ValueError(
            "block_mask: whether it has partial blocks cannot be read in a graph; make the BlockMask outside of it"
        )
    block, (Nq, Nk) = tuple(block_mask.BLOCK_SIZE), block_mask.seq_lengths
    return Blocks(whole, cut, _inside(block_mask.mask_mod, cut, block, Nq, Nk), block, Nq, Nk)


def _inside(mask_mod, cut: Tensor, block: tuple[int, int], Nq: int, Nk: int) -> Tensor:
    """(n, bm, bn): what the function keeps of each block of `cut`; beyond the last query or key what it keeps there."""
    from torch.nn.attention import flex_attention

    kept = [torch.zeros((0, *block), dtype=torch.bool, device=cut.device)]
    for part in cut.split(max(1, _CHUNK // (block[0] * block[1]))) if len(cut) else ():
        batch, head, row, column = part.unbind(1)
        i, j = (
            (at[:, None] * size + torch.arange(size, device=cut.device)).clamp(max=last - 1)
            for at, size, last in ((row, block[0], Nq), (column, block[1], Nk))
        )

        def within(n, _, r, c, batch=batch, head=head, i=i, j=j):
            return mask_mod(batch[n], head[n], i[n, r], j[n, c])

        kept.append(flex_attention.create_mask(within, len(part), 1, *block, device=cut.device)[:, 0])
    return torch.cat(kept)


def _dense(num_blocks: Tensor, indices: Tensor) -> Tensor:
    """(B, H, rows) counts and (B, H, rows, columns) lists, of which the first entries count, as a bool mask."""
    columns = indices.shape[-1]
    listed = torch.arange(columns, device=indices.device) < num_blocks[..., None]
    places = torch.where(listed, indices.long().clamp(0, max(0, columns - 1)), columns)
    mask = torch.zeros((*indices.shape[:-1], columns + 1), dtype=torch.bool, device=indices.device)
    return mask.scatter(-1, places, True)[..., :columns]
