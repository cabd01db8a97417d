"""How longnet_attention is cut into calls of attention: which heads and tokens each of them takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._values import larger
from ._vmap import fold_batch

Heads = slice | tuple[int, ...] | None
"""Heads in regular steps, or one by one; None where each residue has its own: itself and every r-th after it."""


class Part(NamedTuple):
    """The heads h with h mod r in [first, first + residues) in a branch (w, r), that one call of attention serves."""

    w: int
    r: int
    first: int
    residues: int
    heads: int
    """of each residue"""

    @property
    def per_segment(self) -> int:
        return _per_segment(self.w, self.r, self.first)

    def axis(self, lengths: Tensor | None) -> int:
        """Residues are entries of the batch, or heads where they have one each: views, and so no copies."""
        return 1 if self.heads == 1 and lengths is None else 0

    def lengths(self, lengths: Tensor) -> Tensor:
        """How many tokens of each residue lie before each length."""
        residues = torch.arange(self.first, self.first + self.residues, device=lengths.device, dtype=lengths.dtype)
        lengths = lengths[:, None]
        rest = (lengths % self.w - residues + self.r - 1) // self.r
        return (lengths // self.w * self.per_segment + rest.clamp(min=0)).flatten()

    def take(self, tensor: Tensor, heads: Heads) -> Tensor:
        """Its part of a tensor (B, H, N, D): (B, residues, heads, tokens, D). A view where it can be one."""
        if isinstance(heads, tuple):
            tensor = torch.stack([tensor[:, head] for head in heads], 1)
        elif heads is not None:
            tensor = tensor[:, heads]
        if not self._in_steps(tensor.shape[2]):
            chosen = self._index(tensor, heads is None)
            return tensor[chosen] if heads is None else tensor[chosen].movedim(2, 1)
        return self._steps(tensor, heads is None)

    def add(self, total: Tensor, heads: Heads, part: Tensor) -> None:
        """The transpose of take: adds a part to a tensor in place."""
        if isinstance(heads, tuple):
            for n, head in enumerate(heads):
                self.add(total, slice(head, head + 1), part[:, :, n : n + 1])
            return
        if heads is not None:
            total = total[:, heads]
        if self.residues not in (1, self.r):
            # Torch's functionalization of what is written through unfold() drops what lies beside it.
            for n in range(self.residues):
                self._replace(first=self.first + n, residues=1).add(
                    total, None if heads is None else slice(None), part[:, n : n + 1]
                )
        elif self._in_steps(total.shape[2]):
            self._steps(total, heads is None).add_(part)
        else:
            total[self._index(total, heads is None)] += part if heads is None else part.movedim(1, 2)

    def _in_steps(self, N: int) -> bool:
        """Whether the tokens are evenly spaced over segments, too."""
        return self.w % self.r == 0 or self.w >= N

    def _steps(self, tensor: Tensor, with_heads: bool) -> Tensor:
        """(B, residues, heads, tokens, D). with_heads: a residue has its own heads, as it has its own tokens."""
        first, r = self.first, self.r
        if self.residues == 1:
            return (tensor[:, first::r, first::r] if with_heads else tensor[:, :, first::r]).unsqueeze(1)
        if self.residues < r:
            tensor = tensor[:, :, first:].unfold(2, self.residues, r)
            tensor = tensor[:, first:].unfold(1, self.residues, r).diagonal(0, -2, -1) if with_heads else tensor
            return tensor.movedim(-1, 1)
        tensor = tensor.unflatten(2, (tensor.shape[2] // r, r))
        if with_heads:
            return tensor.unflatten(1, (self.heads, r)).diagonal(0, 2, 4).movedim(-1, 1)
        return tensor.movedim(3, 1)

    def _index(self, tensor: Tensor, with_heads: bool) -> tuple:
        def numbers(*range_):
            return torch.arange(*range_, device=tensor.device)

        first, per_segment = self.first, self.per_segment
        residues, t = numbers(first, first + self.residues), numbers(count(self.w, self.r, first, tensor.shape[2]))
        tokens = residues[:, None] + t // per_segment * self.w + t % per_segment * self.r
        if not with_heads:
            return slice(None), slice(None), tokens
        return slice(None), residues[:, None, None] + self.r * numbers(self.heads)[:, None], tokens[:, None]


def parts_of(segments: tuple[tuple[int, int], ...], q: Tensor, k: Tensor, lengths: Tensor | None) -> tuple[Part, ...]:
    """The calls of attention: residues of as many tokens share one where a dimension is left for them."""
    batch, heads, N, _ = q.shape
    group = heads // k.shape[1]
    parts = []
    for w, r in segments:
        before = None
        for residue in range(min(r, heads)):
            tokens = count(w, r, residue, N)
            if not tokens > 0:
                continue
            own = -(-(heads - residue) // r)
            free = batch == 1 or (own == 1 and lengths is None)
            regular = group % r == 0 or (r % group == 0 and (group == 1 or residue % group > 0))
            if free and regular and before == (own, _per_segment(w, r, residue), tokens):
                parts[-1] = parts[-1]._replace(residues=parts[-1].residues + 1)
            else:
                parts.append(Part(w, r, residue, 1, own))
            before = own, _per_segment(w, r, residue), tokens
    return tuple(parts)


def mix_numbers(parts: tuple[Part, ...]) -> list[int]:
    """As longnet_mix reads them."""
    return [number for part in parts for number in (part.w, part.r, part.first)]


def _per_segment(w: int, r: int, residue: int) -> int:
    """Tokens of a residue in a whole segment."""
    return max(0, -(-(w - residue) // r))


def count(w: int, r: int, residue: int, N: int) -> int:
    """Tokens of a residue among N."""
    return N // w * _per_segment(w, r, residue) + larger(0, (N % w - residue + r - 1) // r)


class Take(torch.autograd.Function):
    """A tensor's share of each part. Autograd's own slices would fill a gradient of full size for each of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(parts, heads, tensor):
        return tuple(part.take(tensor, chosen) for part, chosen in zip(parts, heads, strict=True))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.parts, ctx.heads, tensor = inputs
        ctx.shape = tensor.shape

    @staticmethod
    def backward(ctx, *gradients):
        return None, None, put_back(ctx.parts, ctx.heads, gradients, ctx.shape)


class EagerTake(Take):
    """With what torch.compile refuses to see in a Function, and does not need."""

    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, parts, heads, tensor):
        fold = fold_batch(info, tensor, in_dims[2])
        taken = EagerTake.apply(parts, heads, fold(tensor, in_dims[2]))
        return tuple(fold.undo(part) for part in taken), (0,) * len(parts)

    @staticmethod
    def jvp(ctx, parts, heads, tangent):
        return Take.forward(ctx.parts, ctx.heads, tangent)


def put_back(parts: tuple[Part, ...], heads: tuple[Heads, ...], gradients, shape: torch.Size) -> Tensor:
    """The transpose of what all parts take."""
    # Sums of 16 bits, as autograd's own: in float32 they took a third of the whole backward.
    rest = list(zip(parts, heads, gradients, strict=True))
    whole = next((n for n, part in enumerate(parts) if part.r == 1), None)
    total = gradients[0].new_zeros(shape) if whole is None else rest.pop(whole)[2].squeeze(1).clone()
    for part, chosen, gradient in rest:
        part.add(total, chosen, gradient)
    return total


def key_heads(part: Part, heads: int, kv_heads: int) -> Heads:
    """The key/value heads that the query heads of each residue read."""
    group, r = heads // kv_heads, part.r
    if group == 1:
        return None
    if group % r == 0:
        return slice(None)
    if r % group == 0:
        return slice(part.first // group, None, r // group)
    return tuple(head // group for head in range(part.first, heads, r))
