"""splash and its peers behind the same two functions: can it run a problem, and a forward call for given inputs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import splash_attention as sa


@dataclass(frozen=True)
class Contender:
    """`runs(problem)`; `prepare(problem, inputs)` builds metadata outside the times and returns a call of q, k, v."""

    name: str
    runs: callable
    prepare: callable


def splash(problem, inputs):
    pattern = sa.prepare(inputs.pattern, inputs.q, inputs.k)
    return lambda q, k, v: sa.attention(q, k, v, pattern, problem.normalizer)


def sdpa(backend):
    """One backend of scaled_dot_product_attention; for entmax problems it is dense softmax over the same scores."""

    def prepare(problem, inputs):
        def call(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=problem.causal)

        return call

    return prepare


def flex(problem, inputs):
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

    if problem.blocks:
        lines = padded(inputs.block_list)
        counts = torch.full_like(lines[..., 0], inputs.block_list.shape[-1])
        partial = torch.zeros_like(counts)
        block_mask = BlockMask.from_kv_blocks(partial, lines, counts, lines.clone(), BLOCK_SIZE=problem.blocks[0])
    else:
        n = problem.length
        block_mask = create_block_mask(problem.mask_mod, None, None, n, n, device=inputs.q.device.type)
    torch.compiler.reset()  # past its limit of recompilations Torch would fall back to N x N scores
    attention = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: attention(q, k, v, block_mask=block_mask)


def padded(lines):
    """A block list as wide as there are block columns, as FlexAttention's own."""
    return F.pad(lines, (0, lines.shape[2] - lines.shape[3]))


def dense(problem, inputs):
    """Unfused PyTorch operations, N x N scores in memory."""
    mask = inputs.pattern.to_dense(problem.length, problem.length, device=inputs.q.device)

    def call(q, k, v):
        scores = (q @ k.transpose(-1, -2)) * problem.dim**-0.5
        return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v

    return call


CONTENDERS = [
    Contender("splash", lambda problem: True, splash),
    Contender("sdpa-flash", lambda problem: problem.dense, sdpa(SDPBackend.FLASH_ATTENTION)),
    Contender("sdpa-cudnn", lambda problem: problem.dense, sdpa(SDPBackend.CUDNN_ATTENTION)),
    # Blocks of 64 are below the smallest that FlexAttention's default tiles serve well on Hopper; ANCHORS.md has none.
    Contender("flex", lambda problem: problem.mask_mod or (problem.blocks and problem.blocks[0] == 128), flex),
    Contender("torch-dense", lambda problem: problem.dense and problem.alpha == 1 and problem.length <= 2048, dense),
]
