"""Problems of the softmax forward, each list about what a kernel may get wrong: (pattern, dtype, D, heads, sizes, ...).

What a list does not fix is drawn from the text that names the case, so a case stays what it is when others come or go.
"""

import itertools
import random

import torch
from cases import (
    BANDS_AND_BLOCKS,
    BY_POSITION,
    CAUSAL,
    GPU_HEAD_DIMS,
    HALVES,
    PATTERNS,
    Case,
    Shape,
    conjunction,
    fixed,
    random_blocks,
)

import splash_attention as sa

SOFTMAX = (1, "sink")
ODD_HEAD_DIMS = tuple(dim for dim in range(8, 256, 8) if dim not in GPU_HEAD_DIMS)
HEADS = ((1, 1), (2, 2), (3, 3), (2, 1), (4, 2), (3, 1), (6, 2), (4, 1), (8, 2), (8, 1))  # groups 1 2 3 4 8
LAYOUTS = ("bhnd", "bnhd", "sliced")
# Around the tiles of rows (64, 128, 192) and of keys (64, 80, 96, 128, 176), and of the words of 64 mask bits.
EDGES = tuple(m * tile + d for tile in (64, 80, 96, 128, 176, 192) for m in (1, 2) for d in (-1, 0, 1))
SMALL = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33)


def drawn(topic, name, pattern, *salt, **fields):
    """A case; dtype, normalizer, layout, batch, heads, sizes and D are drawn where `fields` does not have them."""
    choice = random.Random(f"{topic} {name} {salt} {sorted(fields.items(), key=str)}")
    group = fields.pop("group", None)
    heads = fields.pop("heads", None) or choice.choice([h for h in HEADS if group in (None, h[0] // h[1])])
    queries = fields.pop("queries", None) or choice.choice(EDGES)
    keys = fields.pop("keys", None) or choice.choice(EDGES)
    if "lengths" in fields:
        keys = queries
    batch = fields.pop("batch", choice.choice((1, 2)))
    batch = len(fields.get("lengths") or fields.get("kv_lengths") or range(batch))
    shape = Shape(batch, *heads, queries, keys, fields.pop("dim", None) or choice.choice(GPU_HEAD_DIMS))
    fields = {
        "alpha": choice.choice(SOFTMAX),
        "dtype": choice.choice(HALVES),
        "layout": choice.choice(LAYOUTS),
        **fields,
    }
    return Case(name, pattern, shape=shape, topic=topic, **fields)


def combinations():
    """Every pattern, dtype and head dimension, with and without a sink."""
    for (name, pattern), dtype, dim, alpha in itertools.product(PATTERNS.items(), HALVES, GPU_HEAD_DIMS, SOFTMAX):
        choice = random.Random(f"{name} {dtype} {dim} {alpha}")
        sizes = choice.sample((65, 129, 200, 64, 191, 70, 130, 257, 128, 33, 300), 2)
        queries, keys = choice.choice((sizes, (sizes[0], sizes[0]), (1, sizes[1])))
        yield drawn("all", name, pattern, dtype=dtype, dim=dim, alpha=alpha, queries=queries, keys=keys)


def head_dimensions():
    """Multiples of 8 between those of the table, which run with columns of zeros."""
    for dim, dtype, name in itertools.product(ODD_HEAD_DIMS, HALVES, ("causal", "symmetric20")):
        yield drawn("odd D", name, PATTERNS[name], dim=dim, dtype=dtype, layout="sliced" if dim % 16 else "bhnd")


def tile_edges():
    """Numbers of rows and keys around the edges of tiles and words."""
    names = "full causal symmetric20 window37 streaming diagonal50-causal dilated10x3 strided fixed longformer bigbird"
    for name, dim in itertools.product((*names.split(), "blocks64", "blocks128", "elements"), GPU_HEAD_DIMS):
        choice = random.Random(f"edges {name} {dim}")
        yield drawn("edges", name, PATTERNS[name], 0, dim=dim, queries=choice.choice(EDGES), keys=choice.choice(EDGES))
        yield drawn("edges", name, PATTERNS[name], 1, dim=dim, queries=choice.choice(SMALL), keys=choice.choice(EDGES))
        yield drawn("edges", name, PATTERNS[name], 2, dim=dim, queries=choice.choice(EDGES), keys=choice.choice(SMALL))


# (queries, group): products around 64, up to which heads of a group may share a tile of rows.
FEW = ((1, 1), (1, 2), (1, 3), (1, 4), (1, 8), (2, 3), (3, 4), (5, 3), (7, 8), (8, 8), (9, 8), (16, 4), (17, 4),
       (21, 3), (22, 3), (32, 2), (33, 2), (64, 1), (65, 1))  # fmt: skip
UNEVEN_HEADS = {
    "blocks64-heads": random_blocks(64, 0.2, seed=6),
    "blocks16-heads": random_blocks(16, 0.1, seed=7),
    "dilated-heads": PATTERNS["dilated-heads"],
    "bigbird-heads": fixed(lambda: sa.BigBird(block=32, window=1, first=0, last=0, random=1, per_head=True)),
    "indices": PATTERNS["indices"],
}
"""Patterns that differ among the heads of a group, down to heads that keep nothing."""


def few_queries():
    """Decoding and chunks: heads of a group in one tile, masks that differ among them, caches of any length."""
    shared = ("full", "causal", "window37", "symmetric20", "streaming", "dilated10x3", "strided", "fixed", "longformer")
    patterns = {**{name: PATTERNS[name] for name in shared}, **UNEVEN_HEADS}
    for (queries, group), (name, pattern) in itertools.product(FEW, patterns.items()):
        choice = random.Random(f"few {queries} {group} {name}")
        keys = choice.choice((1, 63, 130, 200, 321, 700))
        held = tuple(choice.choice((0, 1, queries - 1, keys // 2, keys - 1, keys)) for _ in range(3))
        lengths = {"kv_lengths": tuple(min(one, keys) for one in held)} if choice.random() < 0.6 else {}
        yield drawn("few queries", name, pattern, queries=queries, keys=keys, group=group, **lengths)


def one_key(case, device):
    """One key a head, each elsewhere, and none for the last head."""
    heads, keys = case.shape.heads, case.shape.keys
    mask = torch.zeros(1, heads, 1, keys, dtype=torch.bool)
    for head in range(heads - 1):
        mask[0, head, 0, (head * 977 + 600) % keys] = True
    return sa.ElementMask(mask.to(device))


SPLIT = {
    "full": PATTERNS["full"],
    "causal": CAUSAL,
    "window37": PATTERNS["window37"],  # in the last part alone
    "window1500": fixed(lambda: sa.SlidingWindow.causal(1500)),
    "streaming": PATTERNS["streaming"],  # in the first and the last
    "one-key": one_key,
    "strided": fixed(lambda: sa.Strided(40, 300)),
    "fixed": fixed(lambda: sa.Fixed(1100, 3)),
    "dilated": fixed(lambda: sa.Dilated(4, 700)),
    "longformer": fixed(lambda: sa.Longformer(30, (3, 1800, 2040))),
    "blocks64-heads": random_blocks(64, 0.03, seed=8),
    "bigbird": fixed(lambda: sa.BigBird(64, random=2, per_head=True)),
}


def splits():
    """Few rows of many keys, which are split over the keys: parts that keep nothing, or the only key, or all do."""
    for (name, pattern), (queries, keys), group in itertools.product(
        SPLIT.items(), ((1, 2049), (1, 5000), (5, 4096), (16, 3001), (130, 2500)), (1, 4, 8)
    ):
        choice = random.Random(f"split {name} {queries} {group}")
        held = {"kv_lengths": tuple(choice.sample((keys, keys - 1, keys // 2 + 1, 130, 64, 1, 0), 3))}
        more = held if queries < 64 and choice.random() < 0.5 else {"batch": 1}
        heads = {1: (2, 2), 4: (4, 1), 8: (8, 1)}[group]
        yield drawn("split", name, pattern, queries=queries, keys=keys, heads=heads, **more)


GLOBAL = {
    "bigbird-first2": fixed(lambda: sa.BigBird(64, first=2, last=0)),
    "bigbird-last2": fixed(lambda: sa.BigBird(64, first=0, last=2)),
    "bigbird-both": fixed(lambda: sa.BigBird(128, window=1, random=1, seed=9)),
    "bigbird-heads": fixed(lambda: sa.BigBird(64, per_head=True)),
    "bigbird-causal": fixed(lambda: sa.BigBird(64, causal=True)),
    "bigbird-small": fixed(lambda: sa.BigBird(16, first=3, random=2)),
    "bigbird&window": fixed(lambda: sa.BigBird(64) & sa.SlidingWindow(700, 400)),
    "longformer-prefix": fixed(lambda: sa.Longformer(64, 70)),
    "longformer-one": fixed(lambda: sa.Longformer(30, 1)),
    "longformer-tokens": fixed(lambda: sa.Longformer(40, (5, 130, 640, 699))),
    "longformer-causal": fixed(lambda: sa.Longformer(50, 100, causal=True)),
    "longformer-dilated": fixed(lambda: sa.Longformer(20, (0, 400), dilation=3)),
    "longformer-all": fixed(lambda: sa.Longformer(0, 5000)),
}


def global_rows():
    """Rows that see everything among rows that see little."""
    for (name, pattern), N in itertools.product(GLOBAL.items(), (450, 700, 1501)):
        heads = random.Random(f"global {name} {N}").choice(((1, 1), (2, 1), (3, 1), (4, 2)))
        yield drawn("global rows", name, pattern, queries=N, keys=N, heads=heads, batch=1)
        yield drawn("global rows", name, pattern, 0, queries=N, lengths=(N // 3, N), heads=heads)
    for name in ("longformer-prefix", "longformer-tokens", "longformer-causal"):
        yield drawn("global rows", name, GLOBAL[name], queries=300, keys=900, q_start=20, heads=(2, 1))
        yield drawn("global rows", name, GLOBAL[name], queries=300, keys=900, q_start=-20, k_start=-60, heads=(2, 1))
    part = fixed(lambda: sa.BigBird(64, length=1300))
    yield drawn("global rows", "bigbird-part", part, queries=300, keys=1300, q_start=1000, heads=(2, 1))
    yield drawn("global rows", "bigbird-part", part, queries=300, keys=500, q_start=10, k_start=800, heads=(2, 1))


def placed(choice, N, most=400):
    """Sizes and positions for a problem of about N rows: alone, padded, against a cache, or a part of a longer one."""
    N = max(1, min(most, N))
    other = choice.choice((1, 5, 64, 130, 257, 390))
    return choice.choice(
        (
            {"queries": N, "keys": N},
            {"queries": N, "keys": N},
            {"queries": other, "keys": N},
            {"queries": N, "keys": other},
            {"queries": N, "lengths": tuple(choice.sample((N, N // 2, 1, 0, N - 1), 3))},
            {"queries": min(other, 130), "keys": N, "kv_lengths": tuple(choice.sample((N, N // 2, 1, 0, N - 1), 3))},
            {"queries": N, "keys": N, "q_start": choice.randrange(-90, 300), "k_start": choice.randrange(-50, 90)},
            {"queries": other, "keys": N, "q_start": choice.randrange(-9, 500), "k_start": choice.randrange(-20, 9)},
        )
    )


def with_another(choice, pattern):
    """The pattern, or a conjunction with another."""
    others = (
        CAUSAL,
        fixed(lambda: sa.SlidingWindow(61, 17)),
        fixed(lambda: sa.SlidingWindow.causal(150)),
        fixed(lambda: sa.Streaming(20, 90)),
        fixed(lambda: sa.Dilated(50, 3, causal=False)),
        random_blocks(64, 0.6),
        PATTERNS["dilated-heads"],
    )
    chosen = choice.sample(others, choice.choice((0, 0, 0, 1, 1, 2)))
    return conjunction(pattern, *chosen) if chosen else pattern


def dilations():
    """Residue classes: lengths and positions off every multiple, dilations beyond the length or by head, window 0."""
    for n in range(140):
        choice = random.Random(f"dilated {n}")
        dilation, causal = choice.choice((1, 2, 3, 4, 7, 8, 16, 33, 64, 70, 200, 1000)), choice.random() < 0.5
        window = choice.choice((1, 2, 5, 40, 100, 1000)) if causal else choice.choice((0, 1, 3, 20, 100))
        N = dilation * choice.choice((1, 2, 3, 5, 16)) + choice.choice((-1, 0, 1, dilation // 2))
        heads = choice.choice(HEADS)
        steps = tuple(choice.choice((1, 2, 4, 8, dilation)) for _ in range(heads[0]))
        step = choice.choice((dilation, dilation, steps))
        pattern = fixed(lambda w=window, d=step, c=causal: sa.Dilated(w, d, c))
        name = f"dilated{window}x{'heads' if step is steps else step}{'' if causal else '-both'}-{n}"
        yield drawn("dilated", name, with_another(choice, pattern), heads=heads, **placed(choice, N))


def combs():
    """Strided and fixed patterns: one or two launches, strides beyond the length, summaries of nothing and of all."""
    for n in range(90):
        choice = random.Random(f"comb {n}")
        stride = choice.choice((1, 2, 9, 16, 64, 70, 128, 300, 1000))
        if choice.random() < 0.5:
            local = choice.choice((1, 2, 20, 64, 130, 1000))
            name, pattern = f"strided{local}x{stride}", fixed(lambda a=local, s=stride: sa.Strided(a, s))
        else:
            summary = choice.choice((0, 1, stride // 2, stride - 1, stride))
            name, pattern = f"fixed{stride}x{summary}", fixed(lambda s=stride, m=summary: sa.Fixed(s, m))
        N = stride * choice.choice((1, 2, 3, 5)) + choice.choice((-1, 0, 1, 40))
        yield drawn("comb", f"{name}-{n}", with_another(choice, pattern), **placed(choice, N))


def parts():
    """Patterns that are computed in parts which share rows: each of them empty, or only one, and all sinks counted
    once; runs of summaries off every tile, cut by the tensor's ends, and past them; ranges of heads that have a
    dilation."""
    strided = ((1, 5), (3, 16), (16, 16), (17, 16), (100, 7), (130, 64), (1000, 3), (64, 20), (2, 1))
    fixed_ = ((16, 16), (16, 0), (64, 24), (48, 24), (128, 16), (20, 5), (128, 64), (33, 32), (300, 128), (40, 39))
    dilated = ((1, 3, 3, 7), (2, 1, 2, 1), (5, 5, 5, 5), (1, 1, 2, 1), (4, 1, 1, 4), (1, 2, 4, 8))
    patterns = {
        **{f"strided{a}x{s}": lambda a=a, s=s: sa.Strided(a, s) for a, s in strided},
        **{f"fixed{s}x{m}": lambda s=s, m=m: sa.Fixed(s, m) for s, m in fixed_},
        **{f"dilated{d}".replace(" ", ""): lambda d=d: sa.Dilated(40, d) for d in dilated},
    }
    places = (
        {"queries": 700, "keys": 700},
        {"queries": 513, "keys": 513, "lengths": (513, 100, 0, 257)},
        {"queries": 130, "keys": 900},
        {"queries": 1, "keys": 2000},
        {"queries": 5, "keys": 600, "kv_lengths": (600, 40, 0, 301)},
        {"queries": 400, "keys": 300, "q_start": 90, "k_start": 64},
        {"queries": 300, "keys": 470, "q_start": 180, "k_start": -37},
        {"queries": 200, "keys": 333, "q_start": -50, "k_start": -128},
        {"queries": 300, "keys": 260, "q_start": 4000},
    )
    others = (CAUSAL, fixed(lambda: sa.SlidingWindow.causal(150)), fixed(lambda: sa.SlidingWindow(9, 40)))
    for (name, make), (n, place) in itertools.product(patterns.items(), enumerate(places)):
        choice = random.Random(f"parts {name} {n}")
        heads = choice.choice(((4, 4), (4, 1), (4, 2)))
        pattern = fixed(make)
        if choice.random() < 0.3:
            pattern = conjunction(pattern, choice.choice(others))
        yield drawn("parts", name, pattern, n, heads=heads, dim=choice.choice((64, 64, 128, 128, 96, 32)), **place)


def positions():
    """Every pattern of positions: padded, against a cache, and as a part of a longer sequence."""
    bands = {name: pattern for name, pattern in BANDS_AND_BLOCKS.items() if "blocks" not in name}
    for name, pattern in {**bands, **BY_POSITION}.items():
        yield drawn("positions", name, pattern, queries=260, lengths=(130, 0, 260, 1, 64))
        yield drawn("positions", name, pattern, queries=97, lengths=(65, 97))
        yield drawn("positions", name, pattern, queries=20, keys=300, kv_lengths=(190, 70, 0, 300))
        yield drawn("positions", name, pattern, queries=120, keys=190, q_start=150, k_start=67)
        yield drawn("positions", name, pattern, queries=190, keys=120, q_start=-30, k_start=-45)


BLOCKS = (64, 128, (64, 128), (128, 64), (192, 64), (64, 192), (256, 128), (128, 256), 512, 16, 32, (48, 80), (80, 48),
          (16, 1024))  # fmt: skip


def top_k(block, share_group):
    def make(case, device):
        q, k = case.inputs(device)[:2]
        return sa.top_k_blocks(q, k, block, 2, share_group=share_group)

    return make


def rows_of_blocks(case, device):
    """Compressed sparse rows of blocks, without entries in the last row."""
    rows, columns = -(-case.shape.queries // 64), -(-case.shape.keys // 128)
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(11)) < 0.5
    mask[-1] = False
    crow = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).to(device)
    return sa.BlockMask.from_csr(crow, mask.nonzero()[:, 1].to(device), (rows, columns), (64, 128))


def block_lists():
    """Blocks of every size and density, alone and joined, by head and for all, where few or many rows read them."""
    for block, density, n in itertools.product(BLOCKS, (0.0, 0.05, 0.5, 1.0), range(2)):
        choice = random.Random(f"blocks {block} {density} {n}")
        heads, batch = choice.choice((None, 1)), choice.choice((None, 1))
        pattern = random_blocks(block, density, heads, batch, seed=n)
        sizes = placed(choice, choice.choice((64, 129, 256, 333, 400)))
        yield drawn("blocks", f"blocks{block}x{density}".replace(" ", ""), with_another(choice, pattern), n, **sizes)
    for block, share, queries in itertools.product((64, 128), (False, True), (400, 130)):
        yield drawn("blocks", f"top{block}", top_k(block, share), share, queries=queries, keys=400, group=4)
    yield drawn("blocks", "csr", rows_of_blocks, queries=333, keys=450)
    yield drawn("blocks", "csr", conjunction(rows_of_blocks, CAUSAL), queries=129, keys=700)


WORK = ((8, (16, 4), 257, 64), (33, (4, 1), 70, 96), (2, (8, 2), 1000, 128), (1, (1, 1), 64, 256), (5, (8, 8), 130, 32),
        (1, (131, 131), 64, 64), (1, (132, 12), 64, 128), (1, (133, 133), 64, 64), (1, (66, 66), 128, 192),
        (1, (44, 11), 700, 256), (300, (4, 2), 10, 40))  # fmt: skip


def amounts_of_work():
    """Far more tiles than multiprocessors, about as many, and one; rows of work of very different lengths."""
    for n, (batch, heads, N, dim) in enumerate(WORK):
        for name in ("causal", "window37", "blocks64", "dilated10x3"):
            sizes = {"batch": batch, "heads": heads, "queries": N, "keys": N, "dim": dim}
            yield drawn("work", name, PATTERNS[name], n, **sizes)
    choice = random.Random("uneven")
    uneven = tuple(choice.choice((0, 1, 5, 64, 100, 300, 640)) for _ in range(40))
    for name in ("full", "causal", "bigbird", "fixed"):
        yield drawn("work", name, PATTERNS[name], queries=640, lengths=uneven[:16], heads=(4, 2))
        yield drawn("work", name, PATTERNS[name], queries=1, keys=640, kv_lengths=uneven, heads=(8, 1))
    # More batch entries than a grid has blocks along its second and third dimensions.
    yield drawn("work", "causal", CAUSAL, batch=70_000, heads=(1, 1), queries=1, keys=2, dim=32, layout="bhnd")
    yield drawn("work", "full", PATTERNS["full"], batch=1, heads=(70_000, 70_000), queries=2, keys=1, dim=32)


def views():
    """Strides of 0, and strides of dimensions of size 1 that no tensor map takes."""
    names = ("full", "causal", "window37", "blocks64", "dilated10x3", "bigbird", "elements")
    for layout, name in itertools.product(("expanded", "expanded-batch", "expanded-rows"), names):
        yield drawn("views", name, PATTERNS[name], layout=layout, heads=(4, 2), batch=3, queries=130, keys=200)
        yield drawn("views", name, PATTERNS[name], layout=layout, heads=(8, 2), batch=2, queries=1, keys=700)
    for name in names:
        yield drawn("views", name, PATTERNS[name], layout="odd-ones", heads=(1, 1), batch=1, queries=130, keys=200)
        yield drawn("views", name, PATTERNS[name], layout="odd-ones", heads=(4, 1), batch=1, queries=1, keys=70)
        yield drawn("views", name, PATTERNS[name], layout="odd-ones", heads=(1, 1), batch=2, queries=70, keys=1)


def scales():
    """Negative scales, which turn minimum and maximum round, and none at all."""
    for name, scale, dim in itertools.product(("full", "window37", "elements"), (-0.2, 0.0, 2.0, -3.0), (32, 192, 256)):
        yield drawn("scales", name, PATTERNS[name], scale=scale, dim=dim)


LISTS = (combinations, head_dimensions, tile_edges, few_queries, splits, global_rows, dilations, combs, parts,
         positions, block_lists, amounts_of_work, views, scales)  # fmt: skip
FORWARD = [case for make in LISTS for case in make()]
