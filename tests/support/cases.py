"""The one list of attention problems that the tests run, on every device that has kernels for them."""

import functools
import itertools
import json
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import pytest
import torch
from layouts import LAYOUTS

import splash_attention as sa

HALVES = (torch.bfloat16, torch.float16)
NAMES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32", torch.float64: "f64"}
ROOT = next(folder for folder in Path(__file__).parents if (folder / "kernels/instances.json").is_file())
TABLE = json.loads((ROOT / "kernels/instances.json").read_text())


@functools.cache
def gpu_head_dims(direction, normalizer="softmax", floats=(), dtype="bfloat16"):
    """The head dimensions that the table of kernels has for a GPU and any pattern; a row serves smaller ones, too."""
    served = {
        row["name"]
        for row in TABLE["normalizers"]
        if normalizer in (row["name"], row.get("extends"), row.get("serves")) and row.get("at", [*floats]) == [*floats]
    }
    wanted = {"pass": {direction}, "pattern": {"any"}, "dtype": {dtype}, "normalizer": served}
    dims = set()
    for row in TABLE["instances"]:
        if "op" in row:  # no attention
            continue
        listed = {field: set(value if isinstance(value, list) else [value]) for field, value in row.items()}
        if row["arch"] != "cpu" and all(listed[field] & names for field, names in wanted.items()):
            dims |= listed["head_dim"]
    return tuple(sorted(dims))


GPU_HEAD_DIMS = gpu_head_dims("forward")


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
    alpha: float | str  # of entmax, 1 is softmax; or a name of RULES
    dtype: torch.dtype
    shape: Shape
    layout: str = "bhnd"
    q_start: int | None = None
    k_start: int = 0
    lengths: tuple[int, ...] | None = None
    kv_lengths: tuple[int, ...] | None = None
    scale: float | None = None
    statistic_gradient: bool = False
    topic: str = ""  # what a list of cases is about

    @property
    def normalizer_name(self):
        return self.alpha if self.alpha in RULES else "softmax" if self.alpha == 1 else f"entmax{self.alpha:g}"

    @property
    def id(self):
        parts = [self.name, self.normalizer_name, NAMES[self.dtype], str(self.shape)]
        if self.topic:
            parts.insert(0, self.topic)
        if self.layout != "bhnd":
            parts.append(self.layout)
        for field in ("q_start", "k_start", "lengths", "kv_lengths", "scale"):
            value = getattr(self, field)
            if value is not None and (field, value) != ("k_start", 0):
                parts.append(f"{field}={value}".replace(" ", ""))
        return "-".join(parts)

    @property
    def normalizer(self):
        return self.normalizer_of(self.parameters())

    def normalizer_of(self, parameters):
        """The normalizer with these learned parameters."""
        if self.alpha in RULES:
            return RULES[self.alpha].make(*parameters)
        return sa.Softmax() if self.alpha == 1 else sa.Entmax(self.alpha)

    def parameters(self, device="cpu"):
        """float32 (float64 for float64), drawn on the CPU."""
        if self.alpha not in RULES:
            return []
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        generator = torch.Generator().manual_seed(7)
        return [t.to(device, dtype) for t in RULES[self.alpha].parameters(self.shape, generator)]

    def full_pattern(self, device):
        """The pattern; under a normalizer for causal patterns joined with Causal() where it is not one."""
        pattern = self.pattern(self, device)
        causal_only = self.alpha in RULES and RULES[self.alpha].causal
        return pattern & sa.Causal() if causal_only and not pattern.is_causal() else pattern

    @property
    def runs_on_gpu(self):
        """Forward, as the table of kernels says."""
        return self._has_kernel("forward")

    @property
    def trains_on_gpu(self):
        """Forward and backward."""
        return self.runs_on_gpu and self._has_kernel("backward")

    def _has_kernel(self, direction):
        dims = gpu_head_dims(direction, *rule_of(self.alpha), dtype=str(self.dtype).removeprefix("torch."))
        return self.shape.dim % 8 == 0 and self.shape.dim <= max(dims, default=0)

    @property
    def features(self):
        """What the summary of the test run counts this case under."""
        s = self.shape
        of = {
            "topic": self.topic,
            "pattern": "&".join(re.match("[a-z]*", term)[0] for term in self.name.split("&")),
            "normalizer": self.normalizer_name,
            "dtype": NAMES[self.dtype],
            "D": s.dim,
            "group": s.heads // s.kv_heads,
            "layout": self.layout,
            "lengths": self.lengths and "padded",
            "kv_lengths": self.kv_lengths and "cache",
            "queries": s.queries if s.queries < 4 else "more than keys" if s.queries > s.keys else None,
        }
        return [f"{name} {value}" for name, value in of.items() if value]

    @property
    def scores(self):
        s = self.shape
        return s.batch * s.heads * s.queries * s.keys

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
        """q, k, v and dO in the case's layout."""
        return [LAYOUTS[self.layout](t) for t in self.numbers(device, seed)]

    def numbers(self, device, seed=0):
        """q, k, v and dO, contiguous, drawn on the CPU so that every device sees the same numbers."""
        s = self.shape
        generator = torch.Generator().manual_seed(seed)

        def draw(heads, length):
            shape = (s.batch, heads, length, s.dim)
            return torch.randn(shape, generator=generator).to(device, self.dtype)

        rows, columns = (s.heads, s.queries), (s.kv_heads, s.keys)
        return [draw(*rows), draw(*columns), draw(*columns), draw(*rows)]


@dataclass(frozen=True)
class Rule:
    """A normalizer beside softmax and entmax: its learned parameters for a problem, and what they make."""

    make: Callable[..., sa.Normalizer]
    parameters: Callable[[Shape, torch.Generator], list[torch.Tensor]] = lambda shape, generator: []
    causal: bool = False  # for patterns that keep no later key


def sink_parameters(shape, generator):
    """About as large as the log-sum-exp of all keys, so that sinks weigh as much as these."""
    return [2 * torch.randn(shape.heads, generator=generator) + math.log(shape.keys + 1)]


def elastic_parameters(shape, generator):
    heads = shape.heads
    return [-1 - torch.rand(heads, generator=generator), 0.5 * torch.randn(heads, 45, generator=generator)]


RULES = {
    "sink": Rule(sa.Softmax, sink_parameters),
    "elastic": Rule(sa.Elastic, elastic_parameters, causal=True),
    "elastic-tau": Rule(sa.Elastic, lambda shape, g: [torch.randn(shape.heads, generator=g)], causal=True),
    "top8": Rule(lambda: sa.TopK(8)),
    "top5-entmax1.5": Rule(lambda: sa.TopK(5, sa.Entmax(1.5))),
    "top20-entmax1.3": Rule(lambda: sa.TopK(20, sa.Entmax(1.3))),
}


@functools.cache
def rule_of(alpha):
    """The operators' name of a case's normalizer, and its numbers."""
    one = Shape(1, 1, 1, 1, 1, 8)
    name, floats, _ = Case("", None, alpha, torch.float32, one).normalizer.encode()
    return name, tuple(floats)


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


def per_head(case, device):
    return sa.Dilated(9, [(1, 2, 4, 8)[head % 4] for head in range(case.shape.heads)])


def random_indices(case, device):
    """An IndexCausal with ties, in no order."""
    s, generator = case.shape, torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randint(0, 40, shape, generator=generator).to(device)

    return sa.IndexCausal(draw(s.batch, 1, s.queries), draw(1, s.heads, s.keys))


def random_elements(case, device):
    """An ElementMask: noise, a band, a block of nothing and a block of everything."""
    s, generator = case.shape, torch.Generator().manual_seed(4)
    mask = torch.rand(s.batch, 1, s.queries, s.keys, generator=generator) < 0.2
    mask |= sa.SlidingWindow(9, 3).to_dense(s.queries, s.keys)
    mask[:, :, :64, :64] = True
    mask[:, :, 64:140, :70] = False
    mask[:, :, -1] = False
    return sa.ElementMask(mask.to(device))


def elements_from_csr(case, device):
    s, generator = case.shape, torch.Generator().manual_seed(5)
    sparse = (torch.rand(s.queries, s.keys, generator=generator) < 0.1).to_sparse_csr()
    return sa.ElementMask.from_csr(sparse.crow_indices().to(device), sparse.col_indices().to(device), s.queries, s.keys)


def chosen_blocks(case, device):
    q, k, _, _ = case.inputs(device)
    return sa.top_k_blocks(q, k, 32, 3)


CAUSAL = fixed(sa.Causal)
BANDS_AND_BLOCKS = {
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
BY_POSITION = {
    "streaming": fixed(lambda: sa.Streaming(5, 30)),
    "streaming-no-sink": fixed(lambda: sa.Streaming(0, 70)),
    "diagonal16": fixed(lambda: sa.BlockDiagonal(16)),
    "diagonal50-causal": fixed(lambda: sa.BlockDiagonal(50, causal=True)),
    "diagonal128": fixed(lambda: sa.BlockDiagonal(128)),
    "dilated10x3": fixed(lambda: sa.Dilated(10, 3)),
    "dilated6x7-both": fixed(lambda: sa.Dilated(6, 7, causal=False)),
    "dilated4x70": fixed(lambda: sa.Dilated(4, 70)),
    "dilated-heads": per_head,
    "strided": fixed(lambda: sa.Strided(20, 9)),
    "fixed": fixed(lambda: sa.Fixed(24, 5)),
    "longformer": fixed(lambda: sa.Longformer(20, 3)),
    "longformer-tokens": fixed(lambda: sa.Longformer(10, (2, 50, 51), dilation=2)),
    "longformer-causal": fixed(lambda: sa.Longformer(15, 4, causal=True)),
    "bigbird": fixed(lambda: sa.BigBird(block=16, random=2, seed=3)),
    "bigbird-heads-causal": fixed(lambda: sa.BigBird(block=16, window=1, random=1, per_head=True, causal=True)),
    "streaming&dilated": conjunction(fixed(lambda: sa.Streaming(70, 40)), fixed(lambda: sa.Dilated(99, 2))),
}
BY_ROW_AND_COLUMN = {
    "indices": random_indices,
    "elements": random_elements,
    "elements-csr": elements_from_csr,
    "chosen-blocks": chosen_blocks,
    "elements&bigbird": conjunction(random_elements, BY_POSITION["bigbird"]),
    "indices&longformer": conjunction(random_indices, BY_POSITION["longformer"]),
}
PATTERNS = {**BANDS_AND_BLOCKS, **BY_POSITION, **BY_ROW_AND_COLUMN}

RAGGED = [(65, 65), (129, 129), (200, 200), (64, 192), (191, 70), (1, 130), (63, 63), (257, 257), (128, 128), (33, 300)]
HEADS = [(2, 4, 2), (1, 2, 1), (1, 3, 3), (2, 2, 2), (1, 4, 1)]
LAYOUT_CYCLE = ["bhnd", "bnhd", "sliced"]


def every_combination():
    """Every pattern with every normalizer and dtype; sizes, heads and layouts rotate through their lists."""
    sizes, heads, layouts = itertools.cycle(RAGGED), itertools.cycle(HEADS), itertools.cycle(LAYOUT_CYCLE)
    dims = {True: itertools.cycle((64, 128)), False: itertools.cycle((40, 64, 20, 96, 33))}
    dtypes = {1: HALVES, 1.5: HALVES, 1.25: (torch.bfloat16,), 2.0: (torch.float16,)}
    dtypes |= dict(zip(RULES, itertools.cycle(((torch.bfloat16,), (), (torch.float16,))), strict=False))
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
    for (name, pattern), alpha in itertools.product(BY_POSITION.items(), (1, 1.5, *RULES)):
        base = Case(name, pattern, alpha, torch.float32, Shape(2, 4, 2, 120, 120, 24), statistic_gradient=True)
        yield replace(base, lengths=(100, 37))
        yield replace(base, kv_lengths=(190, 70), shape=replace(base.shape, queries=20, keys=200))
        yield replace(base, q_start=150, k_start=67)
        yield replace(base, q_start=-30, k_start=-45)
    for name, alpha in itertools.product(("causal", "symmetric20", "blocks64&causal"), (1, 1.5, 1.3, 2.0, *RULES)):
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


def on_devices(cases, cpu_every=1, cpu_scores=None, backward=False):
    """pytest parameters (case, device): on the GPU the cases that it has kernels for, with `backward` for both passes.

    On the CPU all, or every n-th of those with up to so many scores, so that long lists cost little there.
    """
    on_cpu = [case for case in cases if cpu_scores is None or case.scores <= cpu_scores][::cpu_every]
    return [
        *(pytest.param(case, "cpu", id=f"cpu-{case.id}") for case in on_cpu),
        *(
            pytest.param(case, "cuda", id=f"cuda-{case.id}", marks=pytest.mark.gpu)
            for case in cases
            if (case.trains_on_gpu if backward else case.runs_on_gpu)
        ),
    ]
