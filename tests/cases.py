"""The one list of attention problems that the tests run, on every device that has kernels for them."""

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import pytest
import torch

import splash_attention as sa

HALVES = (torch.bfloat16, torch.float16)
GPU_HEAD_DIMS = (64, 128)
NAMES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32", torch.float64: "f64"}


@dataclass(frozen=True)
class Shape:
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    dim: int

    def __str__(self):
        return f"B{self.batch}.H{self.heads}.{self.kv_heads}.N{self.queries}.{self.keys}.D{self.dim}"


@dataclass(frozen=True)
class Case:
    """One problem. `pattern` makes the pattern for the case on a device, since masks are tensors of that device."""

    name: str
    pattern: Callable[["Case", str], object]
    alpha: float  # 1 is softmax
    dtype: torch.dtype
    shape: Shape
    layout: str = "bhnd"
    q_start: int | None = None
    k_start: int = 0
    lengths: tuple[int, ...] | None = None
    kv_lengths: tuple[int, ...] | None = None
    scale: float | None = None
    statistic_gradient: bool = False

    @property
    def id(self):
        normalizer = "softmax" if self.alpha == 1 else f"entmax{self.alpha:g}"
        parts = [self.name, normalizer, NAMES[self.dtype], str(self.shape)]
        if self.layout != "bhnd":
            parts.append(self.layout)
        for field in ("q_start", "k_start", "lengths", "kv_lengths", "scale"):
            value = getattr(self, field)
            if value is not None and (field, value) != ("k_start", 0):
                parts.append(f"{field}={value}".replace(" ", ""))
        return "-".join(parts)

    @property
    def normalizer(self):
        return sa.Softmax() if self.alpha == 1 else sa.Entmax(self.alpha)

    @property
    def runs_on_gpu(self):
        return self.dtype in HALVES and self.alpha in (1, 1.5) and self.shape.dim in GPU_HEAD_DIMS

    def options(self, device):
        """The keyword arguments of attention() and of the reference."""

        def tensor(lengths):
            return None if lengths is None else torch.tensor(lengths, dtype=torch.int32, device=device)

        return {
            "scale": self.scale,
            "lengths": tensor(self.lengths),
            "kv_lengths": tensor(self.kv_lengths),
            "q_start": self.q_start,
            "k_start": self.k_start,
        }

    def inputs(self, device, seed=0):
        """q, k, v and dO, drawn on the CPU so that every device sees the same numbers."""
        s = self.shape
        generator = torch.Generator().manual_seed(seed)

        def draw(heads, length):
            shape = (s.batch, heads, length, s.dim)
            return torch.randn(shape, generator=generator).to(device, self.dtype)

        q, k, v, grad = (
            draw(s.heads, s.queries),
            draw(s.kv_heads, s.keys),
            draw(s.kv_heads, s.keys),
            draw(s.heads, s.queries),
        )
        return [LAYOUTS[self.layout](t) for t in (q, k, v, grad)]


def transposed(t):
    """A (B, N, H, D) tensor seen as (B, H, N, D)."""
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def sliced(t):
    """A part of a larger buffer of NaN: every stride is larger than the shape says."""
    batch, heads, length, dim = t.shape
    buffer = t.new_full((batch, length + 3, heads, dim + 16), float("nan"))
    view = buffer[:, 1 : 1 + length, :, 8 : 8 + dim].transpose(1, 2)
    return view.copy_(t)


def expanded(t):
    """The first head for every head, by stride 0."""
    return t[:, :1].expand(-1, t.shape[1], -1, -1)


LAYOUTS = {"bhnd": lambda t: t, "bnhd": transposed, "sliced": sliced, "expanded": expanded}


def fixed(make):
    return lambda case, device: make()


def random_blocks(block, density, heads=None, batch=None, seed=1):
    """A BlockMask of random blocks; the last block row keeps nothing, so fully masked rows are in every case."""

    def make(case, device):
        rows, columns = block if isinstance(block, tuple) else (block, block)
        s = case.shape
        shape = (batch or s.batch, heads or s.heads, -(-s.queries // rows), -(-s.keys // columns))
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
        mask[:, :, -1] &= shape[2] == 1
        return sa.BlockMask(mask.to(device), block)

    return make


def conjunction(*makers):
    return lambda case, device: reduce(operator.and_, (maker(case, device) for maker in makers))


CAUSAL = fixed(sa.Causal)
PATTERNS = {
    "full": fixed(sa.Full),
    "causal": CAUSAL,
    "window37": fixed(lambda: sa.SlidingWindow.causal(37)),
    "symmetric20": fixed(lambda: sa.SlidingWindow.symmetric(20)),
    "left30": fixed(lambda: sa.SlidingWindow(30, None)),
    "right5": fixed(lambda: sa.SlidingWindow(None, 5)),
    "ahead": fixed(lambda: sa.SlidingWindow(0, 40)),
    "blocks64": random_blocks(64, 0.5),
    "blocks128": random_blocks(128, 0.6, batch=1),
    "blocks16x32": random_blocks((16, 32), 0.3, heads=1),
    "blocks64&causal": conjunction(random_blocks(64, 0.6), CAUSAL),
    "blocks128&window90": conjunction(random_blocks(128, 0.7), fixed(lambda: sa.SlidingWindow.causal(90))),
    "causal&symmetric": conjunction(CAUSAL, fixed(lambda: sa.SlidingWindow.symmetric(70))),
    "blocks64&blocks32&causal": conjunction(random_blocks(64, 0.7), random_blocks(32, 0.7, seed=2), CAUSAL),
}

RAGGED = [(65, 65), (129, 129), (200, 200), (64, 192), (191, 70), (1, 130), (63, 63), (257, 257), (128, 128), (33, 300)]
HEADS = [(2, 4, 2), (1, 2, 1), (1, 3, 3), (2, 2, 2), (1, 4, 1)]
LAYOUT_CYCLE = ["bhnd", "bnhd", "sliced"]


def every_combination():
    """Every pattern with every normalizer and dtype; sizes, heads and layouts rotate through their lists."""
    sizes, heads, layouts = itertools.cycle(RAGGED), itertools.cycle(HEADS), itertools.cycle(LAYOUT_CYCLE)
    dims = {True: itertools.cycle((64, 128)), False: itertools.cycle((40, 64, 20, 96, 33))}
    dtypes = {1: HALVES, 1.5: HALVES, 1.25: (torch.bfloat16,), 2.0: (torch.float16,)}
    for (name, pattern), alpha, dtype in itertools.product(PATTERNS.items(), dtypes, (torch.float32, *HALVES)):
        if dtype not in (torch.float32, *dtypes[alpha]):
            continue
        halves = dtype != torch.float32 and alpha in (1, 1.5)
        shape = Shape(*next(heads), *next(sizes), next(dims[halves]))
        yield Case(name, pattern, alpha, dtype, shape, next(layouts), statistic_gradient=dtype == torch.float32)


def special():
    """Sizes, positions, lengths and layouts that the rotation above does not meet in every combination."""
    kinds = ((64, torch.bfloat16), (128, torch.bfloat16), (64, torch.float16))
    for alpha, (dim, dtype) in itertools.product((1, 1.5), kinds):
        base = Case("causal", CAUSAL, alpha, dtype, Shape(1, 2, 1, 300, 300, dim))
        yield replace(base, shape=Shape(1, 4, 1, 513, 513, dim))
        yield replace(base, name="full", pattern=PATTERNS["full"], shape=Shape(2, 1, 1, 640, 640, dim))
        yield replace(base, name="blocks64", pattern=random_blocks(64, 0.4), shape=Shape(2, 2, 1, 450, 450, dim))
        yield replace(base, name="blocks128", pattern=random_blocks(128, 0.4), shape=Shape(1, 2, 1, 700, 580, dim))
        yield replace(base, shape=Shape(1, 1, 1, 1, 1, dim))
        yield replace(base, shape=Shape(1, 2, 1, 1, 257, dim))
        yield replace(base, shape=Shape(1, 2, 1, 150, 40, dim))  # the first rows lie before the first key
        yield replace(base, layout="expanded", shape=Shape(2, 4, 2, 100, 100, dim))
        yield replace(base, q_start=40, k_start=17, shape=Shape(1, 2, 1, 100, 130, dim))
        yield replace(base, q_start=500, k_start=0, name="window37", pattern=PATTERNS["window37"])  # nothing kept
        yield replace(base, q_start=-70, k_start=-20, name="symmetric20", pattern=PATTERNS["symmetric20"])
        yield replace(base, lengths=(130, 0, 300, 1, 64), shape=Shape(5, 2, 1, 300, 300, dim))
        yield replace(
            base, lengths=(65, 128), name="full", pattern=PATTERNS["full"], shape=Shape(2, 2, 2, 128, 128, dim)
        )
        yield replace(
            base,
            lengths=(50, 129),
            name="blocks64",
            pattern=random_blocks(64, 0.6),
            shape=Shape(2, 2, 1, 140, 140, dim),
        )
        yield replace(base, kv_lengths=(65, 200, 0, 1), shape=Shape(4, 4, 2, 1, 200, dim))
        yield replace(
            base, kv_lengths=(65, 190), name="window37", pattern=PATTERNS["window37"], shape=Shape(2, 2, 1, 5, 200, dim)
        )
        yield replace(base, scale=-0.2)
        yield replace(base, scale=0.0, name="full", pattern=PATTERNS["full"], shape=Shape(1, 2, 2, 130, 130, dim))
        yield replace(base, scale=2.0, name="window37", pattern=PATTERNS["window37"])
    for name, alpha in itertools.product(("causal", "symmetric20", "blocks64&causal"), (1, 1.5, 1.3, 2.0)):
        shape = Shape(1, 4, 2, 90, 110, 24)
        yield Case(name, PATTERNS[name], alpha, torch.float64, shape, statistic_gradient=True)
        yield Case(
            name,
            PATTERNS[name],
            alpha,
            torch.float32,
            replace(shape, dim=256, queries=110),
            lengths=(77,),
            statistic_gradient=True,
        )


CASES = [*every_combination(), *special()]


def on_devices(cases):
    """pytest parameters (case, device): every case on the CPU, and on the GPU those that it has kernels for."""
    on_gpu = [case for case in cases if case.runs_on_gpu]
    return [
        *(pytest.param(case, "cpu", id=f"cpu-{case.id}") for case in cases),
        *(pytest.param(case, "cuda", id=f"cuda-{case.id}", marks=pytest.mark.gpu) for case in on_gpu),
    ]
