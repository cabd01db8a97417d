"""The softmax forward of every pattern, dtype, head dimension and size, with poison, against the float64 reference."""

import itertools

import cuda_calls
import pytest
import torch
from cases import PATTERNS, on_devices
from forward_cases import FORWARD, drawn
from forward_problem import assert_same_bits, check_forward

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case, device", on_devices(FORWARD, cpu_every=11, cpu_scores=2**20))
def test_forward(case, device, record_error):
    check_forward(case, device, record_error)


NAMES = ("full", "causal", "window37", "streaming", "dilated10x3", "blocks64", "bigbird", "longformer", "strided")
APART = [
    drawn("apart", name, PATTERNS[name], heads=heads, batch=2, queries=queries, keys=keys)
    for name, (heads, queries, keys) in itertools.product(
        NAMES, (((4, 4), 130, 130), ((6, 2), 67, 201), ((8, 2), 1, 333), ((4, 2), 5, 2100))
    )
]


@torch.no_grad()
@pytest.mark.parametrize("case, device", on_devices(APART, cpu_every=5))
def test_heads_do_not_see_each_other(case, device):
    """Where every second key/value head is NaN, and its queries, the others are what they are beside numbers.

    The last tile of a head may reach into the next one's rows, or into the next batch entry's.
    """
    tensors, kv_heads = case.inputs(device)[:3], case.shape.kv_heads
    pattern, normalizer = case.full_pattern(device), case.normalizer_of(case.parameters(device))
    bad = (torch.arange(2 * kv_heads, device=device) % 2 == 1).view(2, kv_heads)
    bad = torch.stack([bad[0], ~bad[1]])  # a bad head follows on the last good one of the first batch entry
    by_query = bad.repeat_interleave(case.shape.heads // kv_heads, 1)
    dirty = [t.clone() for t in tensors]
    for tensor, where in zip(dirty, (by_query, bad, bad), strict=True):
        tensor[where] = torch.nan
    want, got = (sa.attention(*qkv, pattern, normalizer, return_statistic=True) for qkv in (tensors, dirty))
    assert_same_bits([t[~by_query] for t in got], [t[~by_query] for t in want], "beside heads of NaN")


def test_ids_are_unique():
    ids = [case.id for case in FORWARD]
    assert len(ids) == len(set(ids))


@pytest.mark.gpu
def test_calls_for_memory_checkers():
    """They run; tests/gpu_check.py --sanitize runs them under compute-sanitizer."""
    assert cuda_calls.run() > 100
