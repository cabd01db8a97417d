"""The named problems: tensors, pattern, normalizer, how many scores are kept, and the exact answer to check against."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

import splash_attention as sa
from splash_attention.reference import reference_attention

FULL = sa.Full()


@dataclass(frozen=True)
class Problem:
    """A named problem. `blocks` is (block, density) of random key blocks, `mask_mod` the pattern for FlexAttention."""

    name: str
    batch: int
    heads: int
    length: int
    dim: int
    pattern: sa.Pattern = FULL
    alpha: float = 1  # 1 is softmax
    blocks: tuple[int, float] | None = None
    mask_mod: Callable | None = None
    dtype: torch.dtype = torch.bfloat16

    @property
    def causal(self):
        return isinstance(self.pattern, sa.Causal)

    @property
    def dense(self):
        return self.blocks is None and (self.causal or isinstance(self.pattern, sa.Full))

    @property
    def normalizer(self):
        return sa.Softmax() if self.alpha == 1 else sa.Entmax(self.alpha)


@dataclass
class Inputs:
    """What a problem looks like on a device. `block_list` is (B, H, N / block, K) int32, sorted, or None."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    grad: torch.Tensor
    pattern: sa.Pattern
    block_list: torch.Tensor | None

    @property
    def qkv(self):
        return self.q, self.k, self.v


def build(problem, device, seed=0):
    """Random normal q, k, v, dO (the inputs called iid1 in shared/ANCHORS.md) and the pattern on the device."""
    torch.manual_seed(seed)
    shape = problem.batch, problem.heads, problem.length, problem.dim
    q, k, v, grad = (torch.randn(shape, device=device).to(problem.dtype) for _ in range(4))
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    pattern, block_list = problem.pattern, None
    if problem.blocks:
        block, density = problem.blocks
        count = problem.length // block
        scores = torch.rand(problem.batch, problem.heads, count, count, device=device)
        chosen = scores.argsort(-1)[..., : max(1, int(count * density))].sort(-1).values
        pattern = sa.BlockMask(torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True), block)
        block_list = chosen.to(torch.int32)
    return Inputs(q, k, v, grad, pattern, block_list)


def kept_pairs(problem, inputs):
    """Scores that the pattern keeps, over the batch and all heads."""
    if problem.blocks:
        return int(inputs.pattern.mask.sum()) * problem.blocks[0] ** 2
    return (
        round(problem.pattern.density(problem.length, problem.length) * problem.length**2)
        * problem.batch
        * problem.heads
    )


def flops(problem, pairs, direction):
    """4 D operations a kept pair forward, 10 D backward."""
    return {"fwd": 4, "bwd": 10}[direction] * problem.dim * pairs


@dataclass
class Exact:
    """One head, computed in float64 in chunks of rows: output, gradients, and how sparse the weights are."""

    out: torch.Tensor
    dq: torch.Tensor
    dk: torch.Tensor
    dv: torch.Tensor
    nonzeros: float  # a row
    active_tiles: float  # share of the 64 x 64 tiles of kept scores with a weight above 0


CHUNK = 1024
TILE = 64


def exact(problem, inputs, batch=0, head=0):
    """The reference's answer for one head."""

    def pick(t):
        return t[batch : batch + 1, head : head + 1].detach().double()

    q, k, v, grad = (pick(t) for t in (*inputs.qkv, inputs.grad))
    k, v = k.requires_grad_(), v.requires_grad_()
    outs, dqs = [], []
    nonzeros = active = kept_tiles = 0
    for begin in range(0, problem.length, CHUNK):
        rows = q[:, :, begin : begin + CHUNK].clone().requires_grad_()
        pattern = inputs.pattern
        if problem.blocks:
            block = problem.blocks[0]
            lines = slice(begin // block, (begin + CHUNK) // block)
            pattern = sa.BlockMask(inputs.pattern.mask[batch : batch + 1, head : head + 1, lines], block)
        out, statistic = reference_attention(rows, k, v, pattern, problem.normalizer, q_start=begin)
        out.backward(grad[:, :, begin : begin + CHUNK])
        outs.append(out.detach())
        dqs.append(rows.grad)
        with torch.no_grad():
            kept = pattern.to_dense(rows.shape[2], problem.length, q_start=begin, device=q.device)
            weighty = kept
            if problem.alpha != 1:
                z = (problem.alpha - 1) / math.sqrt(problem.dim) * rows @ k.transpose(-1, -2)
                weighty = kept & (z > statistic[..., None])
            nonzeros += int(weighty.sum())
            active += int(tiles(weighty).sum())
            kept_tiles += int(tiles(kept).sum())
    return Exact(torch.cat(outs, 2), torch.cat(dqs, 2), k.grad, v.grad, nonzeros / problem.length, active / kept_tiles)


def tiles(mask):
    """Whether each 64 x 64 tile of a mask (..., rows, columns) has anything in it; sizes are multiples of 64."""
    return mask.unflatten(-1, (-1, TILE)).any(-1).unflatten(-2, (-1, TILE)).any(-2)


def relative_error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def window_mod(left, right):
    """The mask function of SlidingWindow(left, right) for FlexAttention."""
    if right is None:
        return lambda b, h, i, j: i - j <= left
    if right == 0:
        return lambda b, h, i, j: (i >= j) & (i - j <= left)
    return lambda b, h, i, j: (i - j <= left) & (j - i <= right)


def window(label, left, right, length=32768):
    return Problem(
        f"{label} N{length}", 1, 16, length, 128, sa.SlidingWindow(left, right), mask_mod=window_mod(left, right)
    )


def dense_problems():
    for dim, heads in ((64, 32), (128, 16)):
        for label, pattern in (("full", FULL), ("causal", sa.Causal())):
            for batch, length in ((8, 2048), (2, 8192), (1, 16384)):
                yield Problem(f"D{dim} {label} B{batch} H{heads} N{length}", batch, heads, length, dim, pattern)


def pattern_problems():
    for size in (256, 1024, 4096):
        yield window(f"window{size}-causal", size - 1, 0)
    yield window("window+-512", 512, 512)
    for block in (64, 128):
        for density in (0.05, 0.2):
            yield Problem(
                f"random blocks {block} density {density} full N32768", 1, 16, 32768, 128, blocks=(block, density)
            )


def entmax_problems():
    for batch, length in ((8, 2048), (2, 8192), (1, 32768)):
        name = f"a1.5 causal iid1 B{batch} H16 N{length} D64"
        yield Problem(name, batch, 16, length, 64, sa.Causal(), alpha=1.5)


PROBLEMS = [*dense_problems(), *pattern_problems(), *entmax_problems()]
