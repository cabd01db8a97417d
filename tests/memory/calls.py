"""A small set of calls for memory checkers: every pattern with every normalizer, head dimension and dtype.

Shared by guard_pages.py and malloc_check.py on the CPU and by benchmarks/gpu_check.py --memcheck on CUDA.
"""

import itertools
from dataclasses import replace

import torch
from cases import PATTERNS, Case, Shape

import splash_attention as sa

HALVES = (torch.bfloat16, torch.float16)


def chosen(device):
    """The cases to call: what CUDA has kernels for there, more dtypes and odd head dimensions on the CPU."""
    dims = (64, 128) if device == "cuda" else (33, 64)
    dtypes = HALVES if device == "cuda" else (*HALVES, torch.float32)
    for name, alpha, dim, dtype in itertools.product(PATTERNS, (1, 1.5), dims, dtypes):
        case = Case(name, PATTERNS[name], alpha, dtype, Shape(2, 2, 1, 131, 190, dim), layout="bnhd")
        yield case
        if name in ("causal", "blocks64"):
            yield replace(case, shape=replace(case.shape, queries=190), lengths=(190, 77))
            yield replace(case, shape=replace(case.shape, queries=1), kv_lengths=(190, 65))


def run(device, place=lambda tensor: tensor):
    """Makes every call with inputs put into memory by `place`; backward too on the CPU. Returns the number of calls."""
    cases = list(chosen(device))
    for case in cases:
        q, k, v, grad = (place(t) for t in case.inputs(device))
        backward = device == "cpu"
        q, k, v = (t.requires_grad_(backward) for t in (q, k, v))
        out = sa.attention(q, k, v, case.pattern(case, device), case.normalizer, **case.options(device))
        if backward:
            torch.autograd.grad(out, (q, k, v), grad)
    return len(cases)
