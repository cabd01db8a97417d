"""FlexAttention, compiled, with the pattern as a mask function."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._functorch.config as functorch_config
from torch import Tensor

from splash_attention.patterns import BlockMask, IndexCausal, Pattern

from .base import Peer
from .flex_masks import mask_function


class Flex(Peer):
    name = "flex"
    about = "FlexAttention, compiled; forward only on the CPU"
    package = "torch.nn.attention.flex_attention"

    def refuses(self, case):
        if not isinstance(case.pattern, Pattern):
            return "LongNet is no mask"
        if case.problem.normalizer.label != "softmax":
            return "computes softmax only"
        if isinstance(case.pattern, (BlockMask, IndexCausal)) and not case.sizes.square:
            return "its mask function counts rows, of which there are fewer than keys"
        return mask_function(case.pattern, case)[1]

    def backward(self, case):
        return "FlexAttention has no backward on the CPU" if case.device.type == "cpu" else ""

    def prepare(self, case):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        rows, length = case.sizes.rows, case.sizes.seq_len
        blocks = case.pattern.block if isinstance(case.pattern, BlockMask) else None
        if blocks == (128, 128):
            block_mask = _from_blocks(case.pattern.mask)
        else:
            function = _from_rows(mask_function(case.pattern, case)[0], length - rows)
            batch, heads = (case.sizes.batch, case.sizes.heads) if blocks else (None, None)
            block_mask = create_block_mask(function, batch, heads, rows, length, device=case.device.type)
        grouped = case.sizes.heads != case.sizes.kv_heads
        functorch_config.donated_buffer = False  # the first backward would overwrite what the second one reads
        torch.compiler.reset()  # past its limit of recompilations Torch would fall back to N x N scores
        attention = torch.compile(flex_attention, dynamic=False)

        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if case.device.type == "cpu":  # tensors that want gradients are refused, even where none is asked for
                q, k, v = (t.detach() for t in (q, k, v))
            return attention(q, k, v, block_mask=block_mask, enable_gqa=grouped)

        return call


def _from_rows(function: Callable, first: int) -> Callable:
    """A mask function of rows, of which the first stands at position `first`, from one of positions."""
    return (lambda b, h, i, j: function(b, h, i + first, j)) if first else function


def _from_blocks(mask: Tensor):
    """A block mask of full blocks alone, from (B, H, rows, columns) bool."""
    from torch.nn.attention.flex_attention import BlockMask as FlexBlocks

    counts = mask.sum(-1, dtype=torch.int32)
    columns = mask.to(torch.int8).sort(dim=-1, descending=True, stable=True).indices.to(torch.int32)
    none = torch.zeros_like(counts)
    return FlexBlocks.from_kv_blocks(none, columns, counts, columns.clone(), BLOCK_SIZE=128)
