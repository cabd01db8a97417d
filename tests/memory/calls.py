"""A small set of calls for memory checkers on the CPU: every pattern, every normalizer, lengths and packed sequences.

Shared by guard_pages.py and malloc_check.py; cuda_calls.py has what checkers see on CUDA.
"""

import itertools
from dataclasses import replace

import torch
from cases import BANDS_AND_BLOCKS, BY_POSITION, PATTERNS, RULES, Case, Shape

import splash_attention as sa

KINDS = [(torch.bfloat16, 33), (torch.float16, 64), (torch.float32, 20)]
PACKED = (("streaming", 1.5), ("dilated-heads", "sink"), ("bigbird", 1), ("longformer-causal", "elastic"))


def chosen():
    """The cases to call on the CPU: every pattern, dtypes, odd head dimensions, every normalizer."""
    for name in PATTERNS:
        kinds = KINDS if name in BANDS_AND_BLOCKS else KINDS[::2]
        for alpha, (dtype, dim) in itertools.product((1, 1.5), kinds):
            case = Case(name, PATTERNS[name], alpha, dtype, Shape(2, 2, 1, 131, 190, dim), layout="bnhd")
            yield case
            if name in ("causal", "blocks64"):
                yield replace(case, shape=replace(case.shape, queries=190), lengths=(190, 77))
                yield replace(case, shape=replace(case.shape, queries=1), kv_lengths=(190, 65))
    for rule, name in itertools.product(RULES, ("window37", "elements&bigbird")):
        yield Case(name, PATTERNS[name], rule, torch.float32, Shape(2, 2, 1, 131, 190, 20), layout="bnhd")


def dense(case, place):
    """The inputs that get gradients, the output, and its gradient."""
    q, k, v, grad = (place(t) for t in case.inputs("cpu"))
    parameters = [place(t) for t in case.parameters()]
    leaves = [t.requires_grad_() for t in (q, k, v, *parameters)]
    prepared = sa.prepare(case.full_pattern("cpu"), q, k)
    tables = [place(t) if t.numel() else t for t in prepared.encoded.tensors]
    prepared = replace(prepared, encoded=prepared.encoded._replace(tensors=tables))
    return leaves, sa.attention(q, k, v, prepared, case.normalizer_of(parameters), **case.options("cpu")), grad


def packed(name, alpha, place):
    """Sequences up to the last token of every tensor, an empty one among them."""
    case = Case(name, BY_POSITION[name], alpha, torch.float32, Shape(1, 2, 1, 131, 190, 20))
    q, k, v, grad = (place(t[0].transpose(0, 1).contiguous()) for t in case.inputs("cpu"))
    parameters = [place(t) for t in case.parameters()]
    leaves = [t.requires_grad_() for t in (q, k, v, *parameters)]
    ends = [place(torch.tensor(e, dtype=torch.int32)) for e in ((0, 70, 70, 131), (0, 100, 105, 190))]
    normalizer = case.normalizer_of(parameters)
    return leaves, sa.attention_varlen(q, k, v, *ends, 70, 100, case.full_pattern("cpu"), normalizer), grad


def run(place=lambda tensor: tensor):
    """Makes every call, backward too, with inputs put into memory by `place`. Returns the number of calls."""
    count = 0
    calls = (dense(case, place) for case in chosen())
    for leaves, out, grad in itertools.chain(calls, (packed(*which, place) for which in PACKED)):
        count += 1
        torch.autograd.grad(out, leaves, grad)
    return count
