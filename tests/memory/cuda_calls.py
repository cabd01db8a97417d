"""The calls that CUDA's memory checkers see: one small one of each path of the kernels. racecheck is slow."""

import itertools

import torch
from cases import GPU_HEAD_DIMS, HALVES, PATTERNS, Case, Shape, fixed, random_blocks
from forward_cases import GLOBAL, UNEVEN_HEADS, drawn
from packed_cases import packed

import splash_attention as sa


def call(path, pattern, **fields):
    """Of 131 queries and 190 keys where `fields` does not say otherwise."""
    return drawn(path, path, pattern, **{"queries": 131, "keys": 190, "batch": 2, "heads": (2, 1), **fields})


def dense():
    for (name, pattern), dtype in zip(PATTERNS.items(), itertools.cycle(HALVES), strict=False):
        yield Case(name, pattern, 1, dtype, Shape(2, 2, 1, 131, 190, 64), layout="bnhd")
    for name, dim in itertools.product(("causal", "blocks64", "blocks128", "elements", "longformer"), (64, 128)):
        yield Case(name, PATTERNS[name], 1.5, torch.bfloat16, Shape(2, 2, 1, 131, 190, dim), layout="bnhd")
    for dim, name in itertools.product((*GPU_HEAD_DIMS, 40, 136, 200), ("causal", "symmetric20", "blocks128")):
        yield call("D", PATTERNS[name], dim=dim, alpha="sink" if name == "causal" else 1)

    one_query = {"queries": 1, "keys": 2100, "heads": (8, 1)}
    cache = {**one_query, "kv_lengths": (2100, 65, 0)}
    yield call("decode", PATTERNS["causal"], **cache, dim=128, alpha="sink")
    yield call("decode", PATTERNS["causal"], **cache, dim=256, alpha=1)
    yield call("decode", PATTERNS["window37"], **cache, dim=64)
    yield call("decode", PATTERNS["full"], **{**one_query, "heads": (3, 1)}, dim=96)
    yield call("few", UNEVEN_HEADS["blocks64-heads"], queries=5, keys=700, heads=(8, 2), dim=128)
    yield call("few", UNEVEN_HEADS["dilated-heads"], queries=7, keys=300, heads=(8, 1), dim=64)
    yield call("few", PATTERNS["streaming"], queries=16, keys=700, heads=(4, 1), dim=192)

    for name in ("bigbird-both", "bigbird-heads", "bigbird-causal", "longformer-prefix", "longformer-tokens"):
        yield call(name, GLOBAL[name], queries=450, keys=450, dim=64, batch=1)
    yield call("bigbird-sink", GLOBAL["bigbird-first2"], queries=450, lengths=(130, 450), dim=128, alpha="sink")

    for steps in (3, 64, 200, (2, 7)):
        yield call("dilated", fixed(lambda s=steps: sa.Dilated(9, s)), dim=128)
        yield call(
            "dilated-both", fixed(lambda s=steps: sa.Dilated(9, s, causal=False)), dim=64, q_start=33, k_start=-4
        )
    yield call("dilated&window", fixed(lambda: sa.Dilated(40, 3) & sa.SlidingWindow(60, 0)), lengths=(131, 50, 0))
    yield call("strided", fixed(lambda: sa.Strided(40, 16)), dim=128, queries=300, keys=300)
    for summary in (3, 16):
        yield call("fixed", fixed(lambda s=summary: sa.Fixed(64, s)), dim=128, queries=300, keys=300)

    for block in ((64, 128), (128, 64), (192, 64), 16):
        yield call("blocks", random_blocks(block, 0.4), dim=128, queries=300, keys=333)
    yield call("padded", PATTERNS["causal"], lengths=(131, 77, 0))
    yield call("expanded", PATTERNS["causal"], layout="expanded-batch")
    # As many scores a row as the fused backward wants, and more pieces of work than multiprocessors.
    for dim, size in ((64, 700), (128, 1100)):
        wide = {"queries": size, "keys": size, "dim": dim, "batch": 1, "alpha": 1}
        yield call("fused", PATTERNS["full"], **wide)
        yield call("fused", random_blocks(128, 0.4), **wide)
        yield call("fused", PATTERNS["causal"], **{**wide, "heads": (40, 20)})
    for dim in (192, 256):
        yield call("many tiles", PATTERNS["causal"], queries=200, keys=200, dim=dim, heads=(80, 40), batch=1, alpha=1)
    for name, dim in itertools.product(("diagonal16", "diagonal128"), (64, 128)):
        yield call("closed", PATTERNS[name], queries=301, keys=301, dim=dim, alpha=1)
    yield call("closed", PATTERNS["causal"], queries=100, keys=100, dim=32, alpha=1)
    yield call("many tiles", PATTERNS["causal"], heads=(150, 50), queries=65, keys=65, batch=1, dim=32)


def sequences():
    yield packed("uneven", "causal", (3, 3), dim=128, alpha="sink")
    yield packed("uneven", "full", dim=256)
    yield packed("decode", "causal", (0, 2), dim=128, group=8)
    yield packed("few-queries", "window37", dim=64, group=3)
    yield packed("off-tiles", "bigbird64", dim=64, heads=(2, 1))
    for name in ("streaming", "dilated10x3", "dilated-heads", "longformer", "strided", "fixed"):
        yield packed("self", name, (2, 2), dim=64, heads=(2, 1))
    yield packed("ones", "causal", dim=96)
    yield packed("empty-ends", "dilated&window", (1, 1), dim=32)


def both_passes(function, qkv, grad, parameters, trains):
    """function(q, k, v, *parameters) -> out, and its gradients where there are any."""
    leaves = [t.detach().requires_grad_(trains) for t in (*qkv, *parameters)]
    out = function(*leaves)
    if trains:
        torch.autograd.grad(out, leaves, grad)


def run(device="cuda"):
    """Makes every call, forward and backward; returns how many there were."""
    count = 0
    for case in dense():
        *qkv, grad = case.inputs(device)
        pattern, options = case.full_pattern(device), case.options(device)

        def attention(q, k, v, *parameters, case=case, pattern=pattern, options=options):
            return sa.attention(q, k, v, pattern, case.normalizer_of(parameters), **options)

        both_passes(attention, qkv, grad, case.parameters(device), case.trains_on_gpu)
        count += 1
    for problem in sequences():
        case, ends = problem.case, problem.ends(device)
        *tokens, grad = (t[0].transpose(0, 1) for t in case.inputs(device))

        def attention(q, k, v, *parameters, case=case, ends=ends, longest=problem.longest):
            normalizer = case.normalizer_of(parameters)
            return sa.attention_varlen(q, k, v, *ends, *longest, case.full_pattern(device), normalizer)

        both_passes(attention, tokens, grad, case.parameters(device), case.trains_on_gpu)
        count += 1
    return count
