"""A small set of calls for memory checkers: every pattern with every normalizer, head dimension and dtype.

Shared by guard_pages.py and malloc_check.py on the CPU and by benchmarks/gpu_check.py --memcheck on CUDA.
"""

import itertools
from dataclasses import replace

import torch
from cases import GPU_HEAD_DIMS, HALVES, PATTERNS, Case, Shape

import splash_attention as sa


def chosen(device):
    """The cases to call: what CUDA has kernels for there, more dtypes and odd head dimensions on the CPU."""
    if device == "cuda":
        kinds = list(itertools.product(HALVES, GPU_HEAD_DIMS))
    else:
        kinds = [(torch.bfloat16, 33), (torch.float16, 64), (torch.float32, 20)]
    for name, alpha, (dtype, dim) in itertools.product(PATTERNS, (1, 1.5), kinds):
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
