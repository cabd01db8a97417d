"""Sequences far longer than a tile and tensors past 2^31 elements, at rows in the beginning, the middle and the end."""

import oracle
import pytest
import torch
from cases import PATTERNS, Case, Shape, fixed
from forward_problem import compare, reference_answers

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")


def random_blocks(block):
    def make(case, device):
        sizes = [-(-n // block) for n in (case.shape.queries, case.shape.keys)]
        mask = torch.rand(1, case.shape.heads, *sizes, generator=torch.Generator().manual_seed(2)) < 0.1
        return sa.BlockMask(mask.to(device), block)

    return make


LONG = {
    "full": PATTERNS["full"],
    "causal": PATTERNS["causal"],
    "window1000": fixed(lambda: sa.SlidingWindow.causal(1000)),
    "symmetric300": fixed(lambda: sa.SlidingWindow.symmetric(300)),
    "streaming": fixed(lambda: sa.Streaming(16, 300)),
    "diagonal": fixed(lambda: sa.BlockDiagonal(1024, causal=True)),
    "dilated": fixed(lambda: sa.Dilated(200, 7)),
    "dilated-both": fixed(lambda: sa.Dilated(100, 64, causal=False)),
    "strided": fixed(lambda: sa.Strided(256, 64)),
    "fixed": fixed(lambda: sa.Fixed(128, 16)),
    "longformer": fixed(lambda: sa.Longformer(200, (0, 1, 20_000, 39_999))),
    "bigbird": fixed(lambda: sa.BigBird(64, first=2, last=0)),
    "blocks64": random_blocks(64),
    "blocks128": random_blocks(128),
    "dilated&window": fixed(lambda: sa.Dilated(400, 8) & sa.SlidingWindow(2000, 0)),
}


def kept_rows(pattern, q, k, begin, end, offset):
    """(1, Hq, end - begin, Nk) bool: what these rows keep; row 0 stands at position `offset`."""
    part = q[:, :, begin:end]
    if not isinstance(pattern, sa.BlockMask):
        options = {"q_start": begin + offset, "k_start": 0, "lengths": None, "kv_lengths": None}
        return oracle.kept(pattern, part, k, options)
    rows, columns = (torch.arange(a, b, device=q.device) for a, b in ((begin, end), (0, k.shape[2])))
    return pattern.mask[:, :, rows // pattern.block[0]][..., columns // pattern.block[1]]


@pytest.mark.parametrize("alpha, dim", [(1, 128), ("sink", 64), (1, 256)])
@pytest.mark.parametrize("name", LONG)
def test_long(device, name, alpha, dim, record_error):
    N = 40_001 if device == "cuda" else 1201
    case = Case(name, LONG[name], alpha, torch.bfloat16, Shape(1, 2, 1, N - 1, N, dim), topic="long")
    if device == "cpu" and dim != 64:
        pytest.skip("one head dimension is enough here")
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(1, h, n, dim, generator=generator, device=device) for h, n in ((2, N - 1), (1, N), (1, N)))
    q, k, v = (t.to(case.dtype) for t in (q, k, v))
    pattern, parameters = case.full_pattern(device), case.parameters(device)
    normalizer = case.normalizer_of(parameters)
    got = sa.attention(q, k, v, pattern, normalizer, return_statistic=True)
    assert got[0].isfinite().all() and not got[1].isnan().any()
    for begin, end in ((0, 70), (N // 2 - 65, N // 2 + 65), (N - 101, N - 1)):
        kept = kept_rows(pattern, q, k, begin, end, 1)
        exact, same = reference_answers(q[:, :, begin:end], k, v, kept, case.normalizer_of, parameters, None)
        compare([t[:, :, begin:end] for t in got], exact, same, record_error, device, case.features)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["dense", "packed"])
def test_past_two_billion_elements(layout, record_error):
    """Offsets need 64 bits."""
    H, N, D, window = 129, 2**17, 128, 200
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("needs 30 GiB of memory")
    shape = (1, H, N, D) if layout == "dense" else (N, H, D)
    generator = torch.Generator("cuda").manual_seed(0)
    q, k = (torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    pattern = sa.SlidingWindow.causal(window)
    if layout == "dense":
        got = sa.attention(q, k, k, pattern, return_statistic=True)
    else:
        ends = torch.tensor([0, N - 300, N], dtype=torch.int32, device="cuda")
        out, statistic = sa.attention_varlen(q, k, k, ends, ends, N, N, pattern, return_statistic=True)
        q, k, out = (t.transpose(0, 1)[None] for t in (q, k, out))
        got = out, statistic[None]
    for head in (0, H // 2, H - 1):
        for begin, end, first in ((0, 100, 0), (N - 500, N - 400, N - 800), (N - 90, N, N - 290)):
            rows, keys = (slice(head, head + 1), slice(begin, end)), (slice(head, head + 1), slice(first, N))
            part, near = q[(slice(None), *rows)], k[(slice(None), *keys)] if begin else k[:, rows[0], :200]
            i = torch.arange(begin, end, device="cuda")[:, None]
            j = first + torch.arange(near.shape[2], device="cuda")
            kept = ((j <= i) & (i - j < window))[None, None]
            exact, same = reference_answers(part, near, near, kept, lambda _: sa.Softmax(), [], None)
            compare(
                [t[(slice(None), *rows)] for t in got], exact, same, record_error, "cuda", ["topic past 2^31 elements"]
            )
