"""The reference's answer for some rows of a problem, and how far a peer is from it.

The reference holds dense float64 scores, so long problems are checked on blocks of rows: the output gradient is zero
in all others, which makes the gradients of every key and value those of the chosen rows alone, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splash_attention import patterns
from splash_attention.patterns import And, BlockMask, Pattern
from splash_attention.reference import reference_attention

from .case import Case
from .longnet import LongNet
from .packed import Packed

TILE = 64
ROWS_APART = 16  # a block mask can be cut at multiples of this
PAIRS_AT_ONCE = 2**22
PAIRS = {"cpu": 2**24, "cuda": 2**28}
FORWARD_PAIRS = {"cpu": 2**24, "cuda": 2**26}  # of tables that only time the forward
# Relative errors of outputs and gradients, in the norm. Half precision: one rounding of the weights and one of the
# result; gradients see the rounded output as well.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1.5e-2, torch.float16: 4e-3}
# Where rounding decides on which side of a threshold a score lies, one score in millions takes the other side.
THRESHOLD_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-2, torch.bfloat16: 5e-2, torch.float16: 2e-2}


@dataclass
class Exact:
    """The answer for the last batch entry at `rows`: out and dq (1, H, R, D), the other gradients whole.

    gradients: none where only the forward was asked for.
    """

    rows: Tensor
    out: Tensor
    gradients: list[Tensor]
    nonzeros: float | None  # weights above 0 in a row, of entmax
    active_tiles: float | None  # share of the kept 64 x 64 tiles that hold one


def exact(case: Case, budget: int | None = None, backward: bool = True) -> Exact:
    """By the reference, in float64, for at most about `budget` scores."""
    length, heads = case.sizes.seq_len, case.sizes.heads
    spans = _spans(case, budget or (PAIRS if backward else FORWARD_PAIRS)[case.device.type], backward)
    q, k, v, grad = (t.detach()[-1:].double() for t in (*case.qkv, case.grad))
    parameters = [p.detach().double() for p in case.parameters]
    leaves = [leaf.requires_grad_(backward) for leaf in (k, v, *parameters)]
    normalizer = case.problem.normalizer.build(parameters)
    outs, dqs = [], []
    sparsity = _Sparsity()
    step = TILE
    while step > ROWS_APART and step * length * heads > PAIRS_AT_ONCE:
        step //= 2
    first = length - case.sizes.rows  # the position of the first query
    packed = isinstance(case.pattern, Packed)
    for span in spans:
        for begin in range(span.start, span.stop, step):
            end = min(begin + step, span.stop)
            rows = q[:, :, begin:end].clone().requires_grad_(backward)
            if isinstance(case.pattern, LongNet):
                out = case.pattern.reference(*_repeat(case, rows, k, v), begin)
            else:
                pattern = case.pattern.rows(begin, end, case.device) if packed else sliced(case.pattern, begin, end)
                out, statistic = reference_attention(rows, k, v, pattern, normalizer, q_start=begin + first)
                sparsity.add(case, rows, k, pattern, statistic, begin + first)
            if backward:
                out.backward(grad[:, :, begin:end])
                dqs.append(rows.grad)
            outs.append(out.detach())
    rows = torch.cat([torch.arange(span.start, span.stop, device=case.device) for span in spans])
    gradients = [torch.cat(dqs, 2), *(leaf.grad for leaf in leaves)] if backward else []
    return Exact(rows, torch.cat(outs, 2), gradients, sparsity.nonzeros(), sparsity.active_tiles())


def _spans(case: Case, budget: int, backward: bool) -> list[range]:
    """The checked rows: all of them, or some in the first tile, in the last one, and evenly between them.

    For the forward alone these are a quarter of a tile each, and every quarter has its turn.
    """
    rows = case.sizes.rows
    tiles = list(range(0, rows, TILE))
    whole = case.sizes.seq_len * case.sizes.heads * TILE
    height = TILE if backward else ROWS_APART
    count = max(2 * TILE // height, budget * TILE // (whole * height))
    if len(tiles) * TILE <= count * height:
        return [range(begin, min(begin + TILE, rows)) for begin in tiles]
    chosen = sorted({tiles[round(n * (len(tiles) - 1) / (count - 1))] for n in range(count)})
    spans = []
    for n, tile in enumerate(chosen):
        begin = tile + n % (TILE // height) * height
        begin = begin if begin < rows else tile
        spans.append(range(begin, min(begin + height, rows)))
    return spans


def _repeat(case: Case, q: Tensor, k: Tensor, v: Tensor):
    group = case.sizes.heads // case.sizes.kv_heads
    return q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


def sliced(pattern: Pattern, begin: int, end: int) -> Pattern:
    """The pattern for rows [begin, end) of the last batch entry: tensors that count rows are cut.

    begin: a multiple of ROWS_APART.
    """
    if isinstance(pattern, And):
        return And(tuple(sliced(term, begin, end) for term in pattern.terms))
    if isinstance(pattern, BlockMask):
        rows, columns = pattern.block
        mask = _last(pattern.mask, 4)
        if mask.shape[-2] > 1:
            lines = torch.arange(begin, end, ROWS_APART, device=mask.device) // rows
            mask = mask.index_select(-2, lines)
        return BlockMask(mask, (ROWS_APART, columns))
    if isinstance(pattern, patterns.IndexCausal):
        q_idx = _last(pattern.q_idx, 3)
        return patterns.IndexCausal(q_idx[..., begin:end] if q_idx.shape[-1] > 1 else q_idx, _last(pattern.k_idx, 3))
    if isinstance(pattern, patterns.ElementMask):
        return patterns.ElementMask(_last(pattern.mask, 4)[..., begin:end, :])
    return pattern


def _last(tensor: Tensor, dimensions: int) -> Tensor:
    """The last batch entry of a tensor that may lack leading dimensions."""
    return tensor[-1:] if tensor.dim() == dimensions else tensor


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
            errors["fwd"] = {"out": _error(call(*case.qkv)[-1:, :, found.rows], found.out)}
    if "bwd" in directions:
        grad = torch.zeros_like(case.grad)
        grad[-1:, :, found.rows] = case.grad[-1:, :, found.rows]
        got = torch.autograd.grad(call(*case.qkv), case.leaves, grad)
        dq, dk, dv, *others = got
        pairs = zip((dq[-1:, :, found.rows], dk[-1:], dv[-1:], *others), found.gradients, strict=True)
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
