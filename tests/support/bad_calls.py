"""Good calls of the public surface, and for each of their arguments what it does not take: (argument, value, class)."""

from dataclasses import dataclass
from typing import Any

import torch

import splash_attention as sa

NAN, INF = float("nan"), float("inf")
NO_TENSOR = [None, 1.5, "q", [[1.0]], torch.Tensor]
NO_INT = [1.5, "3", [3], 3j, torch.tensor(3)]
NO_NUMBER = ["1", [1.0], 1j, torch.tensor(1.0)]
NO_FLAG = [1, 0, "yes", None, 1.0]
NOT_FINITE = [NAN, INF, -INF]
NO_FLOAT = [torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64]
HUGE = [2**31, 2**40, 2**63, 10**30]


@dataclass(frozen=True)
class Sizes:
    """Of a call of attention()."""

    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    queries: int = 6
    keys: int = 8
    dim: int = 16
    dtype: torch.dtype = torch.float32

    def q(self):
        return torch.zeros(self.batch, self.heads, self.queries, self.dim, dtype=self.dtype)

    def k(self):
        return torch.zeros(self.batch, self.kv_heads, self.keys, self.dim, dtype=self.dtype)

    def other_dtype(self):
        return torch.float64 if self.dtype == torch.float32 else torch.float32


@dataclass(frozen=True)
class Bad:
    """One argument of a good call, with a value that makes it a bad one."""

    argument: str
    value: Any
    error: type = ValueError
    text: str | None = None  # what the error names, where that is not the argument
    others: tuple = ()  # further arguments that the value needs to be the only mistake

    def arguments(self):
        return {**dict(self.others), self.argument: self.value}

    @property
    def id(self):
        value = self.value
        if isinstance(value, torch.Tensor):
            value = f"{value.dtype}{tuple(value.shape)}{value.device}".replace("torch.", "")
        return f"{self.argument}={value}"[:80]


def values(argument, bad, error=ValueError):
    return [Bad(argument, value, error) for value in bad]


def longer(tensor, dim, by=1):
    shape = [*tensor.shape]
    shape[dim] += by
    return tensor.new_zeros(shape)


def int32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


def mask(*shape, **options):
    return torch.ones(*shape, dtype=torch.bool, **options)


def tensors(argument, good):
    """What no floating tensor argument takes."""
    yield from values(argument, NO_TENSOR, TypeError)
    yield from values(argument, [good.to(dtype) for dtype in NO_FLOAT], TypeError)
    yield from values(argument, [good[0], good[None], good.sum(), *([good.flatten()] if good.dim() > 1 else [])])


def inputs(sizes, names=("q", "k", "v")):
    """Of attention(), and of functions that take q, k, v like it."""
    q, k = sizes.q(), sizes.k()
    goods = {"q": q, "k": k, "v": k}
    for name in names:
        good = goods[name]
        yield from tensors(name, good)
        yield Bad(name, good.to(torch.float8_e4m3fn), TypeError)
        yield Bad(name, good.to(sizes.other_dtype()), TypeError)
        yield Bad(name, good.to("meta"), text="k" if name == "q" else None)
        yield Bad(name, good.to_sparse(), TypeError)
        if sizes.dim > 1:
            yield Bad(name, longer(good, 3, sizes.dim)[..., ::2])
            yield Bad(name, good.mT.contiguous().mT)
        for dim in range(4):
            if (name, dim) not in (("q", 2), ("k", 1), ("v", 1)):
                yield Bad(name, longer(good, dim), text="q|k" if name == "q" or dim == 1 else "k|v")
    yield Bad("q", longer(q, 1, 1 - sizes.kv_heads) if sizes.kv_heads > 1 else q[:, :0])
    yield Bad("q", q[:, :0])
    yield Bad("k", k[:, :0], others=(("v", k[:, :0]),), text="q|k")
    yield Bad("q", q[..., :0], others=(("k", k[..., :0]), ("v", k[..., :0])))


def numbers(sizes):
    yield from values("scale", NO_NUMBER, TypeError)
    yield from values("scale", NOT_FINITE)


def positions(sizes):
    far = [2**29, -(2**29), *HUGE, *(-number for number in HUGE)]
    for name in ("q_start", "k_start"):
        yield from values(name, NO_INT, TypeError)
        yield from (Bad(name, number, text="q_start|k_start") for number in far)
    yield Bad("k_start", None, TypeError)


def lengths(sizes, name):
    """Of a problem with as many queries as keys."""
    batch, keys = sizes.batch, sizes.keys
    good = torch.ones(batch, dtype=torch.int32)
    square = (("q", torch.zeros(batch, sizes.heads, keys, sizes.dim, dtype=sizes.dtype)),)
    wrong_types = [1, [1] * batch, "1", good.tolist(), *(good.to(d) for d in (torch.float32, torch.bool, torch.int16))]
    wrong = [
        good[None],
        good[:0],
        longer(good, 0),
        good[0],
        good.to("meta"),
        good - 2,
        good + keys,
        good.long() * 2**40,
        -good.long() * 2**40,
    ]
    yield from (Bad(name, value, TypeError, others=square) for value in wrong_types)
    yield from (Bad(name, value, others=square) for value in wrong)
    other = {"lengths": "kv_lengths", "kv_lengths": "lengths"}[name]
    yield Bad(name, good, others=(*square, (other, good)))
    if name == "kv_lengths":
        yield from (Bad("q_start", start, others=((name, good),)) for start in (0, 5))
    elif sizes.queries != keys:
        yield Bad(name, good)


def patterns(sizes):
    """Values of `pattern`, and patterns that do not fit."""
    batch, heads, queries, keys = sizes.batch, sizes.heads, sizes.queries, sizes.keys
    yield from values("pattern", [None, 5, 1.5, ["causal"], sa.Causal, mask(queries, keys), ("full",)], TypeError)
    yield from values("pattern", ["", "Causal", "local", "full&causal", "softmax"])
    blocks = [-(-n // 16) for n in (queries, keys)]
    for shape, make, name in (
        ((batch, heads, *blocks), lambda t: sa.BlockMask(t, 16), "mask"),
        ((batch, heads, queries, keys), sa.ElementMask, "mask"),
        ((batch, heads, queries), lambda t: sa.IndexCausal(t.int(), int32(*range(keys))), "q_idx"),
        ((batch, heads, keys), lambda t: sa.IndexCausal(int32(*range(queries)), t.int()), "k_idx"),
    ):
        for dim in range(len(shape)):
            yield Bad("pattern", make(longer(mask(*shape), dim)), text=name)
        if name == "mask":
            yield Bad("pattern", make(mask(*shape, device="meta")), text=name)
            yield Bad("pattern", sa.Causal() & make(longer(mask(*shape), 2, 2)), text=name)
    meta = sa.IndexCausal(int32(*range(queries)).to("meta"), int32(*range(keys)).to("meta"))
    yield Bad("pattern", meta, text="q_idx")
    yield from (Bad("pattern", sa.Dilated(3, (1,) * n), text="dilation") for n in (1, heads + 1) if n != heads)
    crow, col = torch.arange(queries + 1), torch.zeros(queries, dtype=torch.long)
    yield Bad("pattern", sa.ElementMask.from_csr(crow, col, queries, keys + 1), text="mask")
    longer_rows = sa.ElementMask.from_csr(torch.arange(queries + 2), torch.zeros(queries + 1).long(), queries + 1, keys)
    yield Bad("pattern", longer_rows, text="mask")
    csr = sa.ElementMask.from_csr(crow.to("meta"), col.to("meta"), queries, keys)
    yield Bad("pattern", csr, text="crow, col")
    longer_queries, longer_keys = longer(sizes.q(), 2), longer(sizes.k(), 2)
    yield Bad("pattern", sa.prepare("causal", longer_queries, sizes.k()))
    yield Bad("pattern", sa.prepare("causal", sizes.q(), longer_keys))
    yield Bad("pattern", sa.prepare("causal", sizes.q(), sizes.k(), k_start=3))
    yield Bad("pattern", sa.prepare("causal", longer(sizes.q(), 1, sizes.kv_heads), sizes.k()))
    learned = sizes.q().requires_grad_()
    forward_only = sa.prepare("causal", sizes.q(), sizes.k(), backward=False)
    yield Bad("pattern", forward_only, others=(("q", learned),))


def normalizers(sizes):
    heads = sizes.heads
    yield from values("normalizer", [None, True, [1.5], 1j, sa.Softmax, torch.tensor(1.5), sa.Causal()], TypeError)
    yield from values("normalizer", ["", "Softmax", "relu", "entmax", "causal"])
    alphas = (0, 0.5, 1.001, 2.001, -1.5, 3, *NOT_FINITE)
    yield from (Bad("normalizer", alpha, text="alpha") for alpha in alphas)
    for count in (0, 1, heads + 1):
        if count != heads:
            few = torch.zeros(count)
            yield Bad("normalizer", sa.Softmax(few), text="sink_logit")
            yield Bad("normalizer", sa.Elastic(few), text="tau", others=(("pattern", "causal"),))
            biased = sa.Elastic(torch.zeros(heads), torch.zeros(count, 3))
            yield Bad("normalizer", biased, text="bias", others=(("pattern", "causal"),))
    yield Bad("normalizer", sa.Softmax(torch.zeros(heads, device="meta")))
    yield Bad("normalizer", sa.Elastic(torch.zeros(heads, device="meta")), others=(("pattern", "causal"),))
    ahead = [
        sa.Full(),
        sa.SlidingWindow(3, None),
        sa.SlidingWindow(3, 1),
        sa.BlockDiagonal(4),
        sa.Dilated(3, 2, causal=False),
        sa.Longformer(3, 1),
        sa.BigBird(16),
        sa.ElementMask(mask(1, 1)),
        sa.BlockMask(mask(1, 1), 16),
        sa.IndexCausal(int32(1), int32(1)),
        sa.Full() & sa.BlockDiagonal(4),
        sa.prepare("full", sizes.q(), sizes.k()),
    ]
    elastic = sa.Elastic(torch.zeros(heads))
    yield from (Bad("pattern", pattern, others=(("normalizer", elastic),)) for pattern in ahead)


def of_attention(sizes=Sizes()):
    yield from inputs(sizes)
    yield from numbers(sizes)
    yield from positions(sizes)
    yield from lengths(sizes, "lengths")
    yield from lengths(sizes, "kv_lengths")
    yield from patterns(sizes)
    yield from normalizers(sizes)


def good_attention(sizes=Sizes()):
    return {"q": sizes.q(), "k": sizes.k(), "v": sizes.k()}


ENDS, TOKENS = [0, 2, 2, 7], 7


def good_varlen():
    q, k = torch.zeros(TOKENS + 1, 4, 16), torch.zeros(TOKENS, 2, 16)
    ends = {"cu_seqlens_q": int32(*ENDS), "cu_seqlens_k": int32(*ENDS), "max_seqlen_q": 5, "max_seqlen_k": 5}
    return {"q": q, "k": k, "v": k, **ends}


def of_varlen():
    good = good_varlen()
    for name in ("q", "k", "v"):
        tensor = good[name]
        yield from tensors(name, tensor)
        yield Bad(name, tensor.double(), TypeError)
        yield Bad(name, tensor.to_sparse(), TypeError)
        yield Bad(name, tensor.to("meta"), text="k" if name == "q" else name)
        yield from (Bad(name, longer(tensor, dim), text="q|k|v") for dim in range(3) if (name, dim) != ("q", 0))
        yield Bad(name, longer(tensor, 2, 16)[..., ::2])
    for side in "qk":
        name, ends = f"cu_seqlens_{side}", int32(*ENDS)
        yield from values(
            name, [None, ENDS, 1, *(ends.to(d) for d in (torch.float32, torch.bool, torch.int16))], TypeError
        )
        yield from values(
            name, [ends[None], ends[0], ends[:0], ends.to("meta"), ends + 1, ends - 1, ends.flip(0), ends * 2]
        )
        yield Bad(name, int32(0, 4, 2, 7))
        yield Bad(name, int32(0, -3, 2, 7))
        yield Bad(name, int32(0, 2, 2, 2**31 - 1))
        yield Bad(name, torch.tensor([0, 2, 2, 2**40]))
        yield Bad(name, ends[:-1], text="cu_seqlens_k")
        yield from values(f"max_seqlen_{side}", [*NO_INT, None, True], TypeError)
        yield from values(f"max_seqlen_{side}", [-1, 4, 0, *HUGE])
    yield from numbers(Sizes())
    for pattern, name in (
        (sa.BlockMask(mask(1, 1), 16), "BlockMask"),
        (sa.ElementMask(mask(1, 1)), "ElementMask"),
        (sa.IndexCausal(int32(1), int32(1)), "IndexCausal"),
        (sa.Causal() & sa.ElementMask(mask(1, 1)), "ElementMask"),
        (sa.BigBird(16, length=100), "length"),
        (sa.Dilated(3, (1, 2)), "dilation"),
        (sa.prepare("causal", torch.zeros(3, 4, 5, 16), torch.zeros(3, 4, 5, 16)), "pattern"),
    ):
        yield Bad("pattern", pattern, text=name)
    yield from (bad for bad in normalizers(Sizes()) if bad.argument == "normalizer")


def of_prepare(sizes=Sizes()):
    keys = longer(sizes.k(), 2)
    yield from (
        bad
        for bad in inputs(sizes, ("q", "k"))
        if not bad.others and (bad.argument == "q" or getattr(bad.value, "shape", None) != keys.shape)
    )
    yield from (bad for bad in patterns(sizes) if not isinstance(bad.value, sa.patterns.Prepared) and not bad.others)
    yield from values("k_start", [*NO_INT, None], TypeError)
    yield from values("k_start", [2**29, -(2**29), *HUGE])


def good_merge():
    return {
        "o1": torch.zeros(2, 3, 8),
        "lse1": torch.zeros(2, 3),
        "o2": torch.zeros(2, 3, 8),
        "lse2": torch.zeros(2, 3),
    }


def of_merge():
    for name, good in good_merge().items():
        others = "o1|o2|lse1|lse2"
        yield from (Bad(name, value, TypeError) for value in NO_TENSOR)
        yield from (Bad(name, good.to(dtype), TypeError, text=others) for dtype in (torch.int32, torch.bool))
        yield from (Bad(name, longer(good, dim), text=others) for dim in range(good.dim()))
        yield from (Bad(name, value, text=others) for value in (good[0], good[None], good.sum(), good.to("meta")))
    yield Bad("o2", torch.zeros(2, 3, 8, dtype=torch.float64), TypeError, text="o2")


SQUARE = Sizes(queries=8)


def good_longnet():
    return {**good_attention(SQUARE), "segments": ((4, 1), (8, 2))}


def of_longnet():
    yield from (bad for bad in inputs(SQUARE) if not bad.others)
    yield from (bad for bad in lengths(SQUARE, "lengths") if "kv_lengths" not in dict(bad.others))
    yield from numbers(SQUARE)
    yield Bad("k", longer(SQUARE.k(), 2), others=(("v", longer(SQUARE.k(), 2)),))
    yield from values("causal", NO_FLAG, TypeError)
    yield from values("segments", [None, 4, "41", {4: 1}, torch.tensor([[4, 1]])], TypeError)
    yield from values("segments", [(), (4, 1), ((4,),), ((4, 1, 1),), ((0, 1),), ((4, 0),), ((-4, 1),), ((4, -1),)])
    yield from values("segments", [((4.0, 1),), ((4, None),), (("4", 1),), ((4, True),)], TypeError)
    yield from values("segments", [((4, 1), (2**40, 1)), ((4, 1), (8, 2**29))])


def of_entmax():
    x = torch.zeros(3, 5)
    yield from values("x", [*NO_TENSOR, *(x.to(dtype) for dtype in NO_FLOAT), x.to_sparse()], TypeError)
    yield from values("alpha", [None, *NO_NUMBER, True], TypeError)
    yield from values("alpha", [0, 0.5, 1.001, 2.001, -1.5, 3, *NOT_FINITE])
    yield from values("dim", [None, *NO_INT, True], TypeError)
    yield from values("dim", [2, -3, *HUGE])


def ints(name, low, high=None):
    """An int from low to high."""
    yield from values(name, [None, *NO_INT, True], TypeError)
    yield from values(name, [low - 1, low - 100, -(2**63)])
    if high is not None:
        yield from values(name, [high + 1, *(number for number in HUGE if number > high)])


def flags(name):
    yield from values(name, NO_FLAG, TypeError)
