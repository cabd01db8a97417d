"""A problem as tensors on a device."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from splash_attention import NoKernelError, attention
from splash_attention.patterns import And, IndexCausal, Pattern
from splash_attention.patterns.base import Grid

from .longnet import LongNet
from .packed import Packed
from .problems import Problem
from .sizes import DTYPES, Sizes

OPERATIONS = {"fwd": 4, "bwd": 10}  # times D, a kept pair
SMALL = 2**24
AT_ONCE = {"cpu": 2**22, "cuda": 2**26}  # scores


@dataclass
class Case:
    """q and dO (B, H, Nq, D), k and v (B, Hkv, N, D), the pattern and the normalizer with its learned parameters, all
    on `device`. Packed sequences lie in memory as (N, H, D)."""

    problem: Problem
    device: torch.device
    generator: torch.Generator = field(init=False)
    q: Tensor = field(init=False)
    k: Tensor = field(init=False)
    v: Tensor = field(init=False)
    grad: Tensor = field(init=False)
    pattern: Pattern | LongNet = field(init=False)
    parameters: list[Tensor] = field(init=False)

    def __post_init__(self):
        sizes = self.sizes
        self.generator = torch.Generator(self.device).manual_seed(self.problem.seed)
        dtype = DTYPES[sizes.dtype]
        q, k, v = _INPUTS[self.problem.inputs](self._randn, sizes)
        grad = self._randn(sizes.batch, sizes.heads, sizes.rows, sizes.head_dim)
        self.q, self.k, self.v, self.grad = (t.to(dtype).contiguous() for t in (q, k, v, grad))
        self.pattern = self.problem.family.build(self, **self.problem.numbers)
        if isinstance(self.pattern, Packed):
            tensors = (self.q, self.k, self.v, self.grad)
            self.q, self.k, self.v, self.grad = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors)
        choice = self.problem.normalizer
        if isinstance(self.pattern, LongNet) and choice.name != "softmax":
            raise ValueError(f"normalizer: LongNet mixes softmax branches, got {choice.label}")
        self.parameters = choice.parameters(sizes.heads, self.pattern, self.generator, dtype)
        self.normalizer = choice.build(self.parameters)
        for leaf in (self.q, self.k, self.v):
            leaf.requires_grad_()

    @property
    def sizes(self) -> Sizes:
        return self.problem.sizes

    @property
    def seed(self) -> int:
        return self.problem.seed

    @property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    @property
    def leaves(self) -> list[Tensor]:
        """What the backward gives gradients of."""
        return [*self.qkv, *self.parameters]

    @property
    def causal(self) -> bool:
        return self.pattern.is_causal()

    @property
    def dense(self) -> bool:
        """Whether the pattern is one that dense kernels have: everything, or all earlier keys."""
        return isinstance(self.pattern, Pattern) and self.pattern.band() in ((None, None), (None, 0))

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def kept_pairs(self) -> int:
        """Scores that the pattern keeps, over the batch and all heads."""
        batch, heads, rows, length = self.sizes.batch, self.sizes.heads, self.sizes.rows, self.sizes.seq_len
        if isinstance(self.pattern, LongNet):
            return batch * self.pattern.pairs(length, heads)
        if isinstance(self.pattern, IndexCausal):
            return self._count_indices()
        formula = type(self.pattern).count not in (Pattern.count, And.count) or self.pattern.band() is not None
        if not formula and self.device.type == "cuda":
            return sum(self._over_heads(kept) for kept in self.masks(1))
        if not formula and rows * length > SMALL:
            with contextlib.suppress(NoKernelError):
                return self._count_by_attention()
        return round(self.pattern.density(rows, length, heads=heads) * rows * length * batch * heads)

    def masks(self, multiple: int) -> Iterator[Tensor]:
        """The pattern as bools (B or 1, H or 1, n, N) on the device, for some rows after the other.

        multiple: of which n is one, except at the end.
        """
        sizes = self.sizes
        column = torch.arange(sizes.seq_len, device=self.device)[None]
        step = max(1, AT_ONCE[self.device.type] // (sizes.seq_len * multiple)) * multiple
        for begin in range(0, sizes.rows, step):
            row = torch.arange(begin, min(begin + step, sizes.rows), device=self.device)[:, None]
            position = row + (sizes.seq_len - sizes.rows)
            kept = self.pattern.keep(Grid(row, column, position, column, sizes.seq_len, sizes.heads))
            yield kept[(None,) * (4 - kept.dim())].expand(-1, -1, len(row), sizes.seq_len)

    def _over_heads(self, kept: Tensor) -> int:
        """How many of bools (B or 1, H or 1, n, N) are set, over the batch and all heads."""
        return int(kept.sum()) * (self.sizes.batch // kept.shape[0]) * (self.sizes.heads // kept.shape[1])

    def _count_indices(self) -> int:
        seen = torch.searchsorted(self.pattern.k_idx.sort(-1).values, self.pattern.q_idx, right=True)
        return int(seen.sum()) * self.sizes.batch * self.sizes.heads // (seen.shape[0] * seen.shape[1])

    @torch.no_grad()
    def _count_by_attention(self) -> int:
        """Where the masks of long sequences are slow to form: equal scores have the log-sum-exp log(count)."""
        dim = 8 if self.device.type == "cpu" else self.sizes.head_dim
        q, k = (torch.zeros_like(t[..., :dim]) for t in (self.q, self.k))
        _, lse = attention(q, k, k, self.pattern, return_statistic=True)
        return int(lse.double().exp().round().sum())

    def flops(self, pairs: int, direction: str) -> int:
        """Of a pass over these kept pairs."""
        return OPERATIONS[direction] * self.sizes.head_dim * pairs


def _independent(deviation: float):
    """Normal q, k, v, so that the scores have this standard deviation."""

    def draw(randn, sizes: Sizes):
        keys = sizes.batch, sizes.kv_heads, sizes.seq_len, sizes.head_dim
        scale = math.sqrt(deviation)
        q = randn(sizes.batch, sizes.heads, sizes.rows, sizes.head_dim) * scale
        return q, randn(*keys) * scale, randn(*keys)

    return draw


def _local(randn, sizes: Sizes):
    """Keys on a smooth random path with four sinks, queries on twice that path: sparse by tiles, as trained models."""
    batch, heads, group = sizes.batch, sizes.kv_heads, sizes.heads // sizes.kv_heads
    length, dim = sizes.seq_len, sizes.head_dim
    control = randn(batch * heads, dim, length // 64 + 2)
    path = F.interpolate(control, size=length, mode="linear").transpose(1, 2).unflatten(0, (batch, heads))
    sink = randn(1, heads, 1, dim)
    k = path + 0.3 * randn(batch, heads, length, dim)
    k[:, :, :4] += 1.5 * sink
    near = (2 * path + 0.5 * sink)[:, :, length - sizes.rows :].repeat_interleave(group, 1)
    q = near + 0.3 * randn(batch, heads * group, sizes.rows, dim)
    return q, k, randn(batch, heads, length, dim)


_INPUTS = {"iid1": _independent(1), "iid4": _independent(4), "local": _local}
