"""LongNet as a problem: its branches, how many scores they keep, and the dense answer."""

from __future__ import annotations

import torch
from torch import Tensor

from splash_attention.reference import softmax


class LongNet:
    """segments: (length, rate) of each branch. ValueError where the two lists differ in length."""

    def __init__(self, lengths, rates, causal: bool):
        if len(lengths) != len(rates):
            raise ValueError(f"rate: expected one for each of the {len(lengths)} segments, got {len(rates)}")
        self.segments = tuple(zip(lengths, rates, strict=True))
        self.causal = causal

    def __repr__(self) -> str:
        return f"LongNet({self.segments}, causal={self.causal})"

    def is_causal(self) -> bool:
        return self.causal

    def pairs(self, length: int, heads: int) -> int:
        """Kept scores of one batch entry, over all branches and heads."""
        total = 0
        for segment, rate in self.segments:
            for head in range(heads):
                for begin in range(0, length, segment):
                    count = len(range(begin + head % rate, min(begin + segment, length), rate))
                    total += count * (count + 1) // 2 if self.causal else count**2
        return total

    def _branches(self, i: Tensor, j: Tensor, heads: int) -> list[Tensor]:
        """What each branch keeps, bool (heads, n, m), for query positions i (n, 1) and key positions j (m,)."""
        head = torch.arange(heads, device=i.device)[:, None, None]
        near = [
            (i // segment == j // segment) & ((i % segment - head) % rate == 0) & ((j % segment - head) % rate == 0)
            for segment, rate in self.segments
        ]
        return [kept & (j <= i) for kept in near] if self.causal else near

    def to_dense(self, Nq: int, Nk: int, heads: int = 1) -> Tensor:
        """bool (1, heads, Nq, Nk): what any branch keeps."""
        branches = self._branches(torch.arange(Nq)[:, None] + Nk - Nq, torch.arange(Nk), heads)
        return torch.stack(branches).any(0)[None]

    def reference(self, q: Tensor, k: Tensor, v: Tensor, begin: int) -> Tensor:
        """Rows from `begin` on of one batch entry: q (1, H, n, D), k and v (1, H, N, D)."""
        i = torch.arange(begin, begin + q.shape[2], device=q.device)[:, None]
        j = torch.arange(k.shape[2], device=q.device)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        outs, sums = [], []
        for kept in self._branches(i, j, q.shape[1]):
            weights, lse = softmax(scores, kept[None].expand_as(scores))
            outs.append(weights @ v)
            sums.append(lse.detach())
        mixture = torch.stack(sums).softmax(0).nan_to_num(0)  # a row that no branch covers: all of them are -inf
        return sum(weight[..., None] * out for weight, out in zip(mixture, outs, strict=True))
