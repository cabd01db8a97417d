"""Problems drawn from a seed: random patterns, conjunctions, sizes, lengths, positions, heads and views."""

import random

from cases import GPU_HEAD_DIMS
from drawn_patterns import DrawnPatterns
from forward_cases import ODD_HEAD_DIMS, drawn, placed
from packed_cases import Packed

LAYOUTS = ("bhnd", "bnhd", "sliced", "sliced", "expanded", "expanded-batch", "expanded-rows", "odd-ones")


def of_seed(seed, packed=False):
    """The random conjunction of a seed, for any problem."""

    def make(case, device):
        s = case.shape
        return DrawnPatterns(seed, s.batch, s.heads, s.queries, s.keys, device).conjunction(packed)

    return make


def dense(seed):
    choice = random.Random(f"dense {seed}")
    dim = choice.choice((*GPU_HEAD_DIMS, *GPU_HEAD_DIMS, choice.choice(ODD_HEAD_DIMS)))
    sizes = placed(choice, choice.choice((1, 3, 64, 100, 129, 250, 383)))
    return drawn("drawn", f"seed{seed}", of_seed(seed), dim=dim, layout=choice.choice(LAYOUTS), **sizes)


def sequences(seed):
    choice = random.Random(f"packed {seed}")
    count = choice.choice((1, 3, 4, 9))
    queries = tuple(choice.choice((0, 1, 1, 5, 17, 63, 64, 65, 150)) for _ in range(count))
    keys = choice.choice((queries, tuple(choice.choice((0, 1, 30, 64, 129, 170, 400)) for _ in range(count))))
    totals = [max(1, sum(lengths) + choice.choice((0, 0, 1, 40))) for lengths in (queries, keys)]
    fields = {"layout": choice.choice(LAYOUTS[:4]), "queries": totals[0], "keys": totals[1], "batch": 1}
    case = drawn("drawn packed", f"seed{seed}", of_seed(seed, packed=True), **fields)
    return Packed("drawn", case, queries, keys, (max(queries), max(keys)))
