"""Arguments of the raw operators: a good term of every pattern, and draws with little regard to each other."""

import json
import random
from itertools import chain
from pathlib import Path

import torch

from splash_attention._constants import saved_numbers

INSTANCES = json.loads((Path(__file__).parents[2] / "kernels" / "instances.json").read_text())
PATTERN_NAMES = [entry["name"] for entry in INSTANCES["patterns"]]


def int32(*shape):
    return torch.zeros(shape, dtype=torch.int32)


def bird_tables(block, batch, heads, queries, keys, q_start=0, k_start=0, cached=False, longest=None):
    """Zeros as BigBird's tensors. cached: with kv_lengths. longest: max_seqlen_q, max_seqlen_k of packed sequences."""

    def blocks(start, count, anywhere):
        if anywhere:
            return max(0, (count + 2 * block - 2) // block) if count else 0
        return len({max(0, position) // block for position in (start, *range(start, start + count), start + count - 1)})

    rows, columns = (queries, keys) if longest is None else map(min, (queries, keys), longest)
    lines = (
        blocks(q_start, rows, cached or longest) if rows > 0 else 0,
        blocks(k_start, columns, False) if columns else 0,
    )
    bits = [-(-n // 32) for n in lines[::-1]]
    if longest is None:
        return [int32(batch, 1, lines[0], bits[0]), int32(1, heads, lines[1], bits[1])]
    return [int32(1, queries // block + 2 * batch, bits[0]), int32(heads, keys // block + 2 * batch, bits[1])]


def good_terms(batch, heads, queries, keys):
    """{pattern: (ints, tensors)} that fit a problem of these sizes; the tensors are zeros."""
    rows, columns = (-(-n // 64) for n in (queries, keys))
    by_row, by_column = int32(batch, 1, rows, -(-columns // 32)), int32(1, heads, columns, -(-rows // 32))
    ranges = [int32(batch, 1, rows, 2), int32(1, heads, columns, 2)]
    return {
        "full": ([], []),
        "causal": ([], []),
        "sliding_window": ([5, 0], []),
        "streaming": ([3, 10], []),
        "block_diagonal": ([16, 1], []),
        "dilated": ([4, 3, 1], []),
        "dilated_heads": ([4, 1, heads, *range(1, heads + 1)], [int32(heads)]),
        "strided": ([5, 7], []),
        "fixed": ([8, 2], []),
        "staircase": ([16, 4, 0], []),
        "longformer": ([5, 3, 1, 0], []),
        "longformer_tokens": ([5, 1, 0], [int32(3)]),
        "big_bird": ([16, 0, 1, 1, 2**30], bird_tables(16, batch, heads, queries, keys, keys - queries)),
        "index_causal": ([], [int32(batch, 1, queries), int32(1, heads, keys), *ranges]),
        "block_mask": ([64, 64], [by_row, by_column]),
        "element_mask": ([], [by_row, by_column, int32(batch, heads, rows, columns), int32(2, 64, 2)]),
    }


BAD_INTS = {
    "streaming": ([-1, 10], [3, -1]),
    "block_diagonal": ([0, 1], [-16, 1], [2**31, 0]),
    "dilated": ([-1, 3, 1], [4, 0, 1], [4, -3, 1], [4, 2**40, 0]),
    "dilated_heads": (
        [-1, 1, 4, 1, 2, 3, 4],
        [4, 1, 4, 1, 2, 3, 0],
        [4, 1, 4, 1, 2, 3, 2**40],
        [4, 1, 3, 1, 2, 3],
        [4, 1, 5, 1, 2, 3, 4, 5],
        [4, 1, 5, 1, 2, 3, 4],
        [4, 1, -1, 1, 2, 3, 4],
        [4, 1, 2**62, 1],
    ),
    "strided": ([-1, 7], [5, 0], [5, -7], [5, 2**31]),
    "fixed": ([0, 2], [-8, 2], [2**62, 2], [8, -1]),
    "staircase": ([0, 2, 0], [-8, 2, 0], [8, 0, 0], [8, -(2**63), 0], [2**31, 2, 0], [8, 2**31, 0]),
    "longformer": ([-1, 3, 1, 0], [5, -3, 1, 0], [5, 3, 0, 0], [5, 3, 2**32, 1]),
    "longformer_tokens": ([-1, 1, 0], [5, 0, 0], [5, -(2**63), 0]),
    "big_bird": (
        [0, 0, 1, 1, 80],
        [-16, 0, 1, 1, 80],
        [2**31, 0, 1, 1, 80],
        [2**30, 1, 0, 0, 80],
        [16, 0, -1, 1, 80],
        [16, 0, 1, -1, 80],
        [16, 0, 1, 1, -1],
        [16, 0, 1, 1, 2**30 + 1],
    ),
    "block_mask": ([0, 64], [64, -64], [24, 64], [64, 2**62]),
}
"""Numbers of patterns that no problem takes, beside tensors that fit."""

_FREE = {("longformer_tokens", 0): (0,), ("element_mask", 3): (0,)}
"""Dimensions of tensors that may have any length: (pattern, number of its tensor)."""


def bad_tensors(name, number, tensor):
    """{what: tensor}: one of a pattern's tensors, in shapes, dtypes and layouts that do not fit."""
    bad = {
        "int64": tensor.long(),
        "float32": tensor.float(),
        "bool": tensor.bool(),
        "a dimension less": tensor[0] if tensor.numel() else tensor.flatten(),
        "no dimension": int32(),
    }
    if tensor.dim() < 4:
        bad["a dimension more"] = tensor[None]
    for dim, size in enumerate(tensor.shape):
        longer = [*tensor.shape]
        longer[dim] += 2
        if dim not in _FREE.get((name, number), ()):
            bad[f"{size + 2} along {dim}"] = int32(*longer)
            if size != 2 or dim > 1:  # a batch entry or a head serves all
                bad[f"0 along {dim}"] = tensor.narrow(dim, 0, 0)
        if size > 1:
            bad[f"every other along {dim}"] = torch.repeat_interleave(tensor, 2, dim)[
                tuple(slice(None, None, 2) if d == dim else slice(None) for d in range(tensor.dim()))
            ]
    return {what: t for what, t in bad.items() if (t.shape, t.dtype) != (tensor.shape, tensor.dtype) or "other" in what}


SIZES = (0, 1, 2, 3, 16, 33, 70, 130)
NUMBERS = (-(2**63), -64, -1, 0, 1, 2, 16, 64, 2**30, 2**31, 2**63 - 1)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTS = (torch.int32, torch.int64)
ODD = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-300, 1e300)
NORMALIZERS = {
    "softmax": (),
    "entmax": ("alpha",),
    "softmax_sink": (),
    "elastic": (),
    "top_k_softmax": ("k",),
    "top_k_entmax": ("alpha", "k"),
}
DRAWN_FLOATS = {"alpha": (1.5, 1.5, 2.0, 1.3, 1.0000001), "k": (1.0, 3.0, 8.0, 64.0, 2.0**31, 0.5)}


class Draw:
    """Arguments of both operators for one seed, with none or several mistakes."""

    def __init__(self, seed):
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(self._random.getrandbits(32))
        self._rate = self.one_of((0, 0, 0.01, 0.03, 0.1))

    def one_of(self, choices):
        return self._random.choice(choices)

    def mistake(self):
        return self._random.random() < self._rate

    def maybe(self):
        return self.one_of((False, True))

    def int(self, low, high):
        return self._random.randint(low, high)

    def number(self, usual):
        return self.one_of(NUMBERS) if self.mistake() else usual

    def tensor(self, shape, dtype):
        """Usually what was asked for, with any values; after a mistake of another rank, shape, dtype or layout."""
        if self.mistake():
            shape = self.other_shape(shape)
        if self.mistake():
            dtype = self.one_of((*FLOATS, *INTS, torch.bool))
        if dtype in INTS:
            # All of int32, numbers near the sizes of the problem, and words of nothing and of everything.
            low, high = self.one_of(((-(2**31), 2**31), (-3, 8), (-20, 150), (-1, 0), (0, 1)))
            made = torch.randint(low, high, shape, generator=self._generator).to(dtype)
        else:
            made = torch.randn(shape, generator=self._generator)
            if self.int(0, 19) == 0:
                made *= self.one_of(ODD)
            made = made.to(dtype)
        return made.transpose(0, -1) if made.dim() and self.mistake() else made

    def other_shape(self, shape):
        """One dimension less, more, or of another length."""
        shape, dim = [*shape], self.int(0, len(shape))
        if dim == len(shape) or self.maybe():
            shape.insert(dim, self.int(0, 2))
            return shape
        return [*shape[:dim], *([] if self.maybe() else [self.one_of(SIZES)]), *shape[dim + 1 :]]

    def term(self, name, sizes, place):
        """Numbers and tensors of one pattern. place: the further arguments of bird_tables()."""
        ints, tensors = good_terms(*sizes)[name]
        if name == "block_mask":
            ints = [self.one_of((16, 64, 128, 32)) for _ in range(2)]
            rows, columns = -(-sizes[2] // ints[0]), -(-sizes[3] // ints[1])
            tensors = [int32(1, sizes[1], rows, -(-columns // 32)), int32(sizes[0], 1, columns, -(-rows // 32))]
        elif name == "big_bird":
            block = self.one_of((1, 7, 16, 64, 128, 2**30))
            ints = [block, int(self.maybe()), *(self.number(self.int(0, 3)) for _ in range(2)), self.int(0, 300)]
            tensors = bird_tables(block, *sizes, *place)
        elif name == "dilated_heads":
            ints = [
                self.number(4),
                self.number(1),
                self.number(sizes[1]),
                *(self.number(self.int(1, 9)) for _ in ints[3:]),
            ]
        else:
            ints = [self.number(self.one_of((number, number, 1, 70, 2**30))) for number in ints]
        return ints, [self.tensor(tensor.shape, tensor.dtype) for tensor in tensors]

    def ends(self, sequences, rows):
        """cu_seqlens of `rows` rows: rising, or falling, negative, overlapping and past the end."""
        if self.maybe():
            return self.tensor((sequences + 1,), torch.int32)
        inner = sorted(self.int(0, rows) for _ in range(sequences))
        return torch.tensor([0, *inner], dtype=torch.int32)

    def problem(self):
        packed = self.int(0, 3) == 0
        batch, kv_heads, group = self.int(0, 3), self.int(1, 2), self.int(1, 2)
        queries, keys, dim = (self.one_of(SIZES[1:] if self.maybe() else SIZES) for _ in range(3))
        keys, dim = self.one_of((keys, queries)), max(dim, 0 if self.mistake() else 1)
        dtype = self.one_of(FLOATS)
        statistic = torch.float64 if dtype == torch.float64 else torch.float32
        heads, entries = kv_heads * group, 1 if packed and not self.mistake() else batch
        names = [self.one_of(PATTERN_NAMES) for _ in range(self.int(1, 4) + self.mistake())]
        lengths = self.maybe() and packed == self.mistake()
        starts = [0 if self.maybe() else self.number(self.int(-150, 150)) for _ in range(2)]
        longest = [self.number(self.one_of((*SIZES, 1000, 2**29 - 1))) for _ in range(2)]
        near = [start if abs(start) < 2**29 else 0 for start in starts]
        known = [count if 0 <= count < 2**30 else 0 for count in longest]
        place = *near, bool(lengths) and queries != keys, known if packed else None
        terms = [self.term(name, (batch, heads, queries, keys), place) for name in names]
        ints, tensors = (list(chain.from_iterable(term[n] for term in terms)) for n in (0, 1))
        if self.mistake():
            ints.append(self.one_of(NUMBERS))
        if self.mistake():
            tensors = tensors[1:]

        normalizer = self.one_of(list(NORMALIZERS))
        floats = [self.one_of(ODD if self.mistake() else DRAWN_FLOATS[what]) for what in NORMALIZERS[normalizer]]
        parameters = [(heads,), (heads, self.one_of(SIZES))]
        parameters = parameters[: {"softmax_sink": 1, "elastic": 2}.get(normalizer, 0) + self.mistake()]

        like_q, like_k, row = (entries, heads, queries, dim), (entries, kv_heads, keys, dim), (entries, heads, queries)
        ends = [self.ends(batch, rows) if packed != self.mistake() else None for rows in (queries, keys)]
        return {
            "q": self.tensor(like_q, dtype),
            "k": self.tensor(like_k, dtype),
            "v": self.tensor(like_k, dtype),
            "out": self.tensor(like_q, dtype),
            "grad_out": self.tensor(like_q, dtype),
            "statistic": self.tensor(row, statistic),
            "saved": self.tensor((saved_numbers(normalizer, "cpu"), *row), statistic),
            "grad_statistic": self.tensor(row, statistic) if self.maybe() else None,
            "pattern": "&".join(names) + ("&x" if self.mistake() else ""),
            "pattern_ints": ints,
            "pattern_tensors": tensors,
            "normalizer": normalizer,
            "normalizer_floats": floats,
            "normalizer_parameters": [self.tensor(shape, statistic) for shape in parameters],
            "lengths": self.tensor((entries,), torch.int32) if lengths and queries == keys else None,
            "kv_lengths": self.tensor((entries,), torch.int32) if lengths and queries != keys else None,
            "cu_seqlens_q": ends[0],
            "cu_seqlens_k": ends[1],
            "max_seqlen_q": longest[0],
            "max_seqlen_k": longest[1],
            "q_start": starts[0],
            "k_start": starts[1],
            "scale": self.one_of(ODD) if self.mistake() else self.one_of((0.2, -1.0, 30.0, 0.0)),
            "deterministic": self.maybe(),
        }
