"""The reference's answer for some rows of a problem, and how far a peer is from it.

The reference holds dense float64 scores, so long problems are checked on blocks of rows: the output gradient is zero
in all others, which makes the gradients of every key and value those of the chosen rows alone, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import patterns
from ..patterns import And, BlockMask, Pattern
from ..reference import reference_attention
from .case import Case
from .longnet import LongNet

TILE = 64
ROWS_APART = 16  # a block mask can be cut at multiples of this
PAIRS_AT_ONCE = 2**22
PAIRS = {"cpu": 2**24, "cuda": 2**28}
# Relative errors of outputs and gradients, in the norm. Half precision: one rounding of the weights and one of the
# result; gradients see the rounded output as well.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1.5e-2, torch.float16: 4e-3}
# Where rounding decides on which side of a threshold a score lies, one score in millions takes the other side.
THRESHOLD_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-2, torch.bfloat16: 5e-2, torch.float16: 2e-2}


@dataclass
class Exact:
    """The answer for the first batch entry at `rows`: out and dq (1, H, R, D), the other gradients whole."""

    rows: Tensor
    out: Tensor
    gradients: list[Tensor]
    nonzeros: float | None  # weights above 0 in a row, of entmax
    active_tiles: float | None  # share of the kept 64 x 64 tiles that hold one


def exact(case: Case, budget: int | None = None) -> Exact:
    """By the reference, in float64, for at most about `budget` scores."""
    length, heads = case.sizes.seq_len, case.sizes.heads
    begins = _blocks(case, budget or PAIRS[case.device.type])
    q, k, v, grad = (t.detach()[:1].double() for t in (*case.qkv, case.grad))
    k, v = k.requires_grad_(), v.requires_grad_()
    parameters = [p.detach().double().requires_grad_() for p in case.parameters]
    normalizer = case.problem.normalizer.build(parameters)
    outs, dqs = [], []
    sparsity = _Sparsity()
    step = TILE
    while step > ROWS_APART and step * length * heads > PAIRS_AT_ONCE:
        step //= 2
    for block in begins:
        for begin in range(block, min(block + TILE, length), step):
            end = min(begin + step, block + TILE, length)
            rows = q[:, :, begin:end].clone().requires_grad_()
            if isinstance(case.pattern, LongNet):
                out = case.pattern.reference(*_repeat(case, rows, k, v), begin)
            else:
                pattern = sliced(case.pattern, begin, end)
                out, statistic = reference_attention(rows, k, v, pattern, normalizer, q_start=begin)
                sparsity.add(case, rows, k, pattern, statistic, begin)
            out.backward(grad[:, :, begin:end])
            outs.append(out.detach())
            dqs.append(rows.grad)
    rows = torch.cat([torch.arange(b, min(b + TILE, length), device=case.device) for b in begins])
    gradients = [torch.cat(dqs, 2), *(leaf.grad for leaf in (k, v, *parameters))]
    return Exact(rows, torch.cat(outs, 2), gradients, sparsity.nonzeros(), sparsity.active_tiles())


def _blocks(case: Case, budget: int) -> list[int]:
    """First rows of the checked blocks: the first, the last, and others evenly between them."""
    length = case.sizes.seq_len
    every = list(range(0, length, TILE))
    count = max(2, budget // (length * case.sizes.heads * TILE))
    if len(every) <= count:
        return every
    return sorted({every[round(n * (len(every) - 1) / (count - 1))] for n in range(count)})


def _repeat(case: Case, q: Tensor, k: Tensor, v: Tensor):
    group = case.sizes.heads // case.sizes.kv_heads
    return q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


def sliced(pattern: Pattern, begin: int, end: int) -> Pattern:
    """The pattern for rows [begin, end) of the first batch entry: tensors that count rows are cut.

    begin: a multiple of ROWS_APART.
    """
    if isinstance(pattern, And):
        return And(tuple(sliced(term, begin, end) for term in pattern.terms))
    if isinstance(pattern, BlockMask):
        rows, columns = pattern.block
        mask = _first(pattern.mask, 4)
        if mask.shape[-2] > 1:
            lines = torch.arange(begin, end, ROWS_APART, device=mask.device) // rows
            mask = mask.index_select(-2, lines)
        return BlockMask(mask, (ROWS_APART, columns))
    if isinstance(pattern, patterns.IndexCausal):
        q_idx = _first(pattern.q_idx, 3)
        return patterns.IndexCausal(q_idx[..., begin:end] if q_idx.shape[-1] > 1 else q_idx, _first(pattern.k_idx, 3))
    if isinstance(pattern, patterns.ElementMask):
        return patterns.ElementMask(_first(pattern.mask, 4)[..., begin:end, :])
    return pattern


def _first(tensor: Tensor, dimensions: int) -> Tensor:
    """The first batch entry of a tensor that may lack leading dimensions."""
    return tensor[:1] if tensor.dim() == dimensions else tensor


class _Sparsity:
    """Counts of entmax's weights above 0, over the checked rows."""

    def __init__(self):
        self.weights = self.rows = self.active = self.kept = 0
        self.known = True

    @torch.no_grad()
    def add(self, case: Case, q: Tensor, k: Tensor, pattern: Pattern, statistic: Tensor, begin: int) -> None:
        choice = case.problem.normalizer
        if choice.name != "entmax":
            self.known = False
            return
        kept = pattern.to_dense(q.shape[2], k.shape[2], q.shape[1], q_start=begin, device=q.device)
        kept = kept.expand(1, q.shape[1], -1, -1)
        group = q.shape[1] // k.shape[1]
        z = (choice.alpha - 1) * q.shape[-1] ** -0.5 * q @ k.repeat_interleave(group, 1).transpose(-1, -2)
        weighty = kept & (z > statistic[..., None])
        self.weights += int(weighty.sum())
        self.rows += q.shape[1] * q.shape[2]
        self.active += int(_tiles(weighty).sum())
        self.kept += int(_tiles(kept).sum())

    def nonzeros(self) -> float | None:
        return self.weights / self.rows if self.rows and self.known else None

    def active_tiles(self) -> float | None:
        return self.active / max(1, self.kept) if self.rows and self.known else None


def _tiles(mask: Tensor) -> Tensor:
    """Whether each tile of TILE columns of a mask (..., rows, columns) has anything in it."""
    padded = torch.nn.functional.pad(mask, (0, -mask.shape[-1] % TILE))
    return padded.unflatten(-1, (-1, TILE)).any(-1).any(-2)


def compare(case: Case, found: Exact, call: Callable, directions: list[str]) -> dict[str, float]:
    """{direction: largest relative error} of a forward call of (q, k, v); WrongResult beyond the tolerance."""
    allowed = tolerance(case)
    errors = {}
    if "fwd" in directions:
        with torch.no_grad():
            errors["fwd"] = {"out": _error(call(*case.qkv)[:1, :, found.rows], found.out)}
    if "bwd" in directions:
        grad = torch.zeros_like(case.grad)
        grad[:1, :, found.rows] = case.grad[:1, :, found.rows]
        got = torch.autograd.grad(call(*case.qkv), case.leaves, grad)
        dq, dk, dv, *others = got
        pairs = zip((dq[:1, :, found.rows], dk[:1], dv[:1], *others), found.gradients, strict=True)
        names = ("dq", "dk", "dv", *(f"gradient of parameter {n}" for n in range(len(others))))
        errors["bwd"] = {name: _error(a, b) for name, (a, b) in zip(names, pairs, strict=True)}
    for direction, values in errors.items():
        if not all(error <= allowed for error in values.values()):  # a NaN fails too
            text = ", ".join(f"{name} {error:.2e}" for name, error in values.items())
            raise WrongResult(f"wrong {direction}: relative errors {text}, allowed {allowed:g}")
    return {direction: max(values.values()) for direction, values in errors.items()}


def tolerance(case: Case) -> float:
    """The largest relative error that is accepted."""
    choice = case.problem.normalizer
    # top-k selects, ReLU and sparsemax have a gradient that jumps.
    threshold = choice.name in ("elastic", "top-k") or choice.alpha == 2
    return (THRESHOLD_TOLERANCES if threshold else TOLERANCES)[case.q.dtype]


class WrongResult(RuntimeError):
    """A peer's answer is not the reference's."""


def _error(got: Tensor, want: Tensor) -> float:
    size = want.norm().item()
    return (got.double() - want).norm().item() / (size if size > 0 else 1)
