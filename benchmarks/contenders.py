"""splash and its peers behind the same two functions: can it run a problem, and a forward call for given inputs."""

import functools
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


@functools.cache
def compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex(problem, inputs):
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask

    if problem.blocks:
        lines = inputs.block_list
        counts = torch.full(lines.shape[:3], lines.shape[3], dtype=torch.int32, device=lines.device)
        empty = torch.zeros_like(counts)
        block_mask = BlockMask.from_kv_blocks(empty, padded(lines), counts, padded(lines), BLOCK_SIZE=problem.blocks[0])
    else:
        n, device = problem.length, inputs.q.device.type
        block_mask = torch.compile(create_block_mask)(problem.mask_mod, None, None, n, n, device=device)
    attention = compiled_flex()
    return lambda q, k, v: attention(q, k, v, block_mask=block_mask)


def padded(lines):
    """A block list as wide as there are block columns, which FlexAttention expects for its transposition."""
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
