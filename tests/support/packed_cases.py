"""Packed sequences of every kind of lengths, for the softmax forward of every pattern that packs."""

import random
from dataclasses import dataclass, replace

import torch
from cases import BY_POSITION, PATTERNS, Case, conjunction, fixed
from forward_cases import drawn

import splash_attention as sa

LENGTHS = {
    "uneven": ((5, 0, 70, 1, 130, 33), (9, 3, 70, 0, 200, 12)),
    "tiles": ((64, 128, 192, 176, 96, 80),) * 2,
    "off-tiles": ((63, 65, 127, 129, 177, 95),) * 2,
    "self": ((191, 0, 1, 64, 20, 257),) * 2,
    "one": ((300,),) * 2,
    "ones": ((1,) * 50,) * 2,
    "long-and-short": ((700, 3, 1, 2),) * 2,
    "empty-ends": ((0, 0, 70, 0, 45, 0), (0, 5, 70, 3, 45, 0)),
    "all-empty": ((0, 0), (0, 0)),
    "no-keys": ((5, 70), (0, 0)),
    "no-queries": ((0, 0), (5, 70)),
    "decode": ((1,) * 7, (300, 1, 0, 129, 64, 1100, 2)),
    "few-queries": ((3, 1, 5, 2, 0, 16), (301, 1, 9, 129, 64, 900)),
    "more-queries": ((130, 65, 9, 200), (64, 1, 8, 199)),
    "many": (tuple(random.Random("many").choices(range(20), k=140)),) * 2,
}
PATTERNS_THAT_PACK = {
    **{name: PATTERNS[name] for name in ("full", "causal", "window37", "symmetric20", "ahead", "causal&symmetric")},
    **BY_POSITION,
    "bigbird64": fixed(lambda: sa.BigBird(64, first=2, last=0)),
    "dilated&window": conjunction(fixed(lambda: sa.Dilated(40, 3)), fixed(lambda: sa.SlidingWindow(50, 0))),
    "fixed&strided&causal": conjunction(PATTERNS["fixed"], PATTERNS["strided"], PATTERNS["causal"]),
}


@dataclass(frozen=True)
class Packed:
    """Sequences of these lengths one after the other in the tensors of `case`, (1, H, T, D), and tokens after them."""

    name: str
    case: Case
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    longest: tuple[int, int]  # max_seqlen of queries and of keys

    @property
    def id(self):
        return f"{self.name}-{self.case.id}"

    @property
    def runs_on_gpu(self):
        return self.case.runs_on_gpu

    @property
    def trains_on_gpu(self):
        return self.case.trains_on_gpu

    @property
    def scores(self):
        return self.case.scores

    @property
    def features(self):
        return [*self.case.features, f"sequences {self.name}"]

    def ends(self, device, dtype=torch.int32):
        """cu_seqlens of queries and keys."""
        return [torch.tensor([0, *lengths]).cumsum(0).to(device, dtype) for lengths in (self.queries, self.keys)]

    def parts(self):
        """(rows, columns) of each sequence as slices; max_seqlen cuts what lies beyond."""
        starts = zip(*(end[:-1].tolist() for end in self.ends("cpu")), strict=True)
        for (row, column), queries, keys in zip(starts, self.queries, self.keys, strict=True):
            queries, keys = min(queries, self.longest[0]), min(keys, self.longest[1])
            yield slice(row, row + queries), slice(column, column + keys)


def packed(name, pattern_name, tail=(0, 0), longest=None, **fields):
    """A problem of the sequences called `name`; what `fields` does not have is drawn."""
    queries, keys = LENGTHS[name]
    pattern = PATTERNS_THAT_PACK[pattern_name]
    totals = [max(1, sum(lengths) + more) for lengths, more in zip((queries, keys), tail, strict=True)]
    case = drawn("packed", pattern_name, pattern, name, queries=totals[0], keys=totals[1], batch=1, **fields)
    return Packed(name, case, queries, keys, longest or (max(queries), max(keys)))


def every_pattern_and_lengths():
    for name in LENGTHS:
        for pattern in PATTERNS_THAT_PACK:
            choice = random.Random(f"packed {name} {pattern}")
            tail = choice.choice(((0, 0), (3, 3), (70, 0), (0, 70), (130, 130)))
            larger = choice.choice((0, 0, 1, 1000))
            problem = packed(name, pattern, tail)
            yield replace(problem, longest=tuple(most + larger for most in problem.longest))


def every_head_dimension():
    """Each with each group of heads that a tile of rows may hold."""
    for dim in (8, 32, 40, 64, 80, 96, 128, 136, 192, 200, 256):
        for name, group in (("uneven", 2), ("decode", 8), ("few-queries", 3), ("off-tiles", 1)):
            yield packed(name, "causal", (5, 9), dim=dim, group=group)


PACKED = [*every_pattern_and_lengths(), *every_head_dimension()]
CUT = [
    packed(name, pattern, (4, 4), longest)
    for name in ("uneven", "decode", "long-and-short")
    for pattern in ("causal", "dilated10x3", "longformer", "bigbird64")
    for longest in ((40, 50), (1, 1), (0, 0), (1000, 64), (3, 1000))
]
"""max_seqlen below what there is, which only a device lets through: the first rows and keys of a sequence are left."""
