"""Block masks of torch's flex_attention."""

from __future__ import annotations

import torch
from torch import Tensor

from .._values import readable


def dense_blocks(block_mask) -> tuple[Tensor, tuple[int, int]]:
    """(mask, block) of a flex_attention BlockMask whose blocks are all kept as a whole."""
    from torch.nn.attention import flex_attention  # slow to import, and few need it

    if not isinstance(block_mask, flex_attention.BlockMask):
        raise TypeError(f"block_mask: expected a BlockMask of flex_attention, got {type(block_mask).__name__}")

    partial = _dense(block_mask.kv_num_blocks, block_mask.kv_indices)
    whole = torch.zeros_like(partial)
    if block_mask.full_kv_num_blocks is not None:
        whole = _dense(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    if block_mask.mask_mod is flex_attention.noop_mask:
        whole = whole | partial
    elif not readable(partial):
        raise ValueError(
            "block_mask: whether it has partial blocks cannot be read in a graph; make the BlockMask outside of it"
        )
    elif count := int(partial.sum()):
        raise ValueError(
            f"block_mask: expected full blocks only, got {count} partial ones, which BlockMask cannot say; "
            "ElementMask takes the dense mask of create_mask(mask_mod, B, H, Nq, Nk)"
        )
    return whole, tuple(block_mask.BLOCK_SIZE)


def _dense(num_blocks: Tensor, indices: Tensor) -> Tensor:
    """(B, H, rows) counts and (B, H, rows, columns) lists, of which the first entries count, as a bool mask."""
    columns = indices.shape[-1]
    listed = torch.arange(columns, device=indices.device) < num_blocks[..., None]
    places = torch.where(listed, indices.long().clamp(0, max(0, columns - 1)), columns)
    mask = torch.zeros((*indices.shape[:-1], columns + 1), dtype=torch.bool, device=indices.device)
    return mask.scatter(-1, places, True)[..., :columns]
