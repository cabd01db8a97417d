"""Numbers of users at the ends of what is allowed: exact, or refused in true words."""

import itertools

import pytest
import torch
from operators import FORWARD

import splash_attention as sa
from splash_attention.patterns import Extent
from splash_attention.reference.masks import dense_mask

CPU = torch.device("cpu")
END = 2**29  # positions lie below it in magnitude
INT32, INT64 = (-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1)
DTYPE = {"cpu": torch.float32, "cuda": torch.float16}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2}
pytestmark = pytest.mark.usefixtures("one_thread")


def sdpa(q, k, v, kept):
    """With zeros where nothing is kept."""
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=kept)
    return out.masked_fill(~kept.any(-1, keepdim=True), 0)


def attended(q_idx, k_idx, device, Nq=100, Nk=130):
    """out and the gradients of attention under the indices, and of SDPA under `k_idx <= q_idx` of Python's integers."""
    generator = torch.Generator().manual_seed(3)
    q, k, v, grad = (torch.randn(2, 2, n, 16, generator=generator).to(device, DTYPE[device]) for n in (Nq, Nk, Nk, Nq))
    kept = (k_idx.long()[..., None, :] <= q_idx.long()[..., :, None]).expand(2, 2, Nq, Nk).to(device)
    pattern = sa.IndexCausal(q_idx.to(device), k_idx.to(device))
    results = []
    for call in (lambda *t: sa.attention(*t, pattern), lambda *t: sdpa(*t, kept)):
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        out = call(*leaves)
        results.append([out, *torch.autograd.grad(out, leaves, grad)])
    return results


def assert_attended(q_idx, k_idx, device, **sizes):
    for got, want in zip(*attended(q_idx, k_idx, device, **sizes), strict=True):
        torch.testing.assert_close(got, want, atol=TOLERANCE[got.dtype], rtol=0)


@pytest.mark.parametrize("unit", [1, 10**3, 10**9, 10**12])  # of 2025 in seconds, milliseconds, ... and 10**21 / 10**9
def test_times(unit, device):
    start = min(1_750_000_000 * unit, 2**63 - 10**15)
    times = start + torch.arange(130) * (unit // 3 + 1)
    assert_attended(times[30:], times, device)
    assert_attended(times[30:].expand(2, 1, -1), times.flip(0).expand(1, 2, -1), device)


EDGES = [*INT32, *(n + 1 for n in INT32), *(n - 1 for n in INT32), *INT64, -(2**63) + 1, 2**63 - 2, -1, 0, 1, 2**32]


@pytest.mark.parametrize(
    "shapes", [((), ()), ((2, 1), ()), ((), (1, 2)), ((2, 1), (1, 2)), ((2, 2), (2, 2)), ((1,), (2,))]
)
@pytest.mark.parametrize("sizes", [(100, 130), (130, 100), (1, 130), (70, 70)])
def test_edges_of_int64(shapes, sizes, device):
    generator = torch.Generator().manual_seed(sum(sizes))
    edges = torch.tensor(EDGES)
    q_idx, k_idx = (
        edges[torch.randint(0, len(EDGES), (*shape, n), generator=generator)]
        for shape, n in zip(shapes, sizes, strict=True)
    )
    assert_attended(q_idx, k_idx, device, Nq=sizes[0], Nk=sizes[1])
    kept = k_idx[..., None, :] <= q_idx[..., :, None]
    dense = sa.IndexCausal(q_idx, k_idx).to_dense(*sizes)
    assert torch.equal(dense, kept.expand_as(dense))
    want = kept.float().mean().item()
    assert sa.IndexCausal(q_idx, k_idx).density(*sizes) == pytest.approx(want, abs=1e-6)


def test_one_index_for_all(device):
    assert_attended(torch.tensor([2**40]), torch.arange(130) + 2**40 - 65, device)
    assert_attended(torch.arange(100) - 2**40, torch.tensor([-(2**40) + 9]), device)


def test_edges_of_int32(device):
    """All of int32, also in the last group of 64 that is not whole."""
    edges = torch.tensor([*INT32, 0], dtype=torch.int32)
    q_idx, k_idx = edges[torch.arange(100) % 3], edges[torch.arange(130) % 3]
    assert_attended(q_idx, k_idx, device)
    assert_attended(torch.full((100,), INT32[1], dtype=torch.int32), k_idx, device)
    assert_attended(torch.full((100,), INT32[0], dtype=torch.int32), k_idx, device)


NARROW = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64)


@pytest.mark.parametrize("q_dtype, k_dtype", list(itertools.product(NARROW, NARROW)))
def test_dtypes_may_differ(q_dtype, k_dtype):
    """The ends of each dtype, and what the other one has near them."""

    def ends(dtype, length):
        info = torch.iinfo(dtype)
        values = torch.tensor([info.min, info.max, 0, 1, 100, info.max - 1])
        return values[torch.arange(length) % len(values)].to(dtype)

    assert_attended(ends(q_dtype, 100), ends(k_dtype, 130), "cpu")


def test_what_no_int64_holds_is_refused():
    index = torch.zeros(4, dtype=torch.uint64)
    with pytest.raises(TypeError, match=r"q_idx: expected an integer dtype that int64 holds, got torch.uint64"):
        sa.IndexCausal(index, index)


def zeros(n, device="cpu"):
    return torch.zeros(1, 1, n, 8, device=device, dtype=DTYPE[device])


def raw(q, k, q_start, k_start, lengths=None, kv_lengths=None, ends=(None, None, 0, 0)):
    rows = lengths, kv_lengths, *ends, q_start, k_start
    return FORWARD(q, k, k, "full", [], [], "softmax", [], [], *rows, 0.1, False)[0]


FIRST, LAST = 1 - END, END - 1
FITTING = [
    (FIRST, 5, 0, 3),
    (LAST - 4, 5, 0, 3),
    (0, 5, FIRST, 3),
    (0, 5, LAST - 2, 3),
    (FIRST, 5, LAST - 2, 3),
    (END, 0, 0, 3),
]
NOT_FITTING = [
    (FIRST - 1, 5, 0, 3, "q_start"),
    (LAST - 3, 5, 0, 3, "q_start"),
    (0, 5, FIRST - 1, 3, "k_start"),
    (0, 5, LAST - 1, 3, "k_start"),
    (END + 1, 0, 0, 3, "q_start"),
    (2**63 - 1, 5, 0, 3, "q_start"),
    (-(2**63), 5, 0, 3, "q_start"),
]


@pytest.mark.parametrize("q_start, Nq, k_start, Nk", FITTING)
def test_positions_up_to_the_ends(q_start, Nq, k_start, Nk, device):
    q, k = zeros(Nq, device), zeros(Nk, device)
    assert sa.attention(q, k, k, q_start=q_start, k_start=k_start).shape == q.shape
    assert raw(q, k, q_start, k_start).shape == q.shape


@pytest.mark.parametrize("q_start, Nq, k_start, Nk, name", NOT_FITTING)
def test_positions_past_the_ends(q_start, Nq, k_start, Nk, name):
    q, k = zeros(Nq), zeros(Nk)
    with pytest.raises(ValueError, match=rf"^{name}: positions must lie between -2\*\*29 and 2\*\*29, both excluded"):
        sa.attention(q, k, k, q_start=q_start, k_start=k_start)
    with pytest.raises(RuntimeError, match=rf"{name}: the . \w+ from position .* reach past \+-536870911"):
        raw(q, k, q_start, k_start)


def test_positions_of_caches(device):
    """The first key may be the last one: its position is what the queries reach back from."""
    q, k, held = zeros(5, device), zeros(3, device), torch.tensor([1], dtype=torch.int32, device=device)
    assert sa.attention(q, k, k, kv_lengths=held, k_start=FIRST + 4).shape == q.shape
    assert raw(q, k, 0, FIRST + 4, kv_lengths=held).shape == q.shape
    assert sa.attention(q, k, k, kv_lengths=held, k_start=LAST - 2).shape == q.shape
    with pytest.raises(ValueError, match="q_start: positions must lie between"):
        sa.attention(q, k, k, kv_lengths=held, k_start=FIRST + 3)
    with pytest.raises(RuntimeError, match="k_start: the 5 queries up to the first key"):
        raw(q, k, 0, FIRST + 3, kv_lengths=held)


def test_packed_positions_are_those_of_the_longest(device):
    """Tokens in all say nothing about positions, and longer sequences may be announced than there are."""
    q, ends = zeros(10, device), torch.tensor([0, 4, 10], dtype=torch.int32, device=device)
    for longest in (6, 10, END):
        assert raw(q, q, 0, 0, ends=(ends, ends, longest, longest)).shape == q.shape
        packed = q[0].transpose(0, 1)
        assert sa.attention_varlen(packed, packed, packed, ends, ends, longest, longest).shape == packed.shape
    assert raw(q, q, 0, LAST - 5, ends=(ends, ends, 6, 6)).shape == q.shape
    assert raw(q, q, 0, FIRST + 5, ends=(ends, ends, 6, 6)).shape == q.shape
    for k_start in (LAST - 4, FIRST + 4):
        with pytest.raises(RuntimeError, match="k_start: the 6 "):
            raw(q, q, 0, k_start, ends=(ends, ends, 6, 6))
    for wrong in (END + 1, -1):
        with pytest.raises(ValueError, match="max_seqlen_q: expected 0 to"):
            sa.attention_varlen(packed, packed, packed, ends, ends, wrong, 10)
        with pytest.raises(RuntimeError, match=r"max_seqlen is .*; allowed are 0 to 536870912"):
            raw(q, q, 0, 0, ends=(ends, ends, wrong, 10))


def test_too_many_packed_tokens():
    """A meta tensor has as many as one likes."""
    tokens, ends = torch.empty(END + 1, 1, 8, device="meta"), torch.zeros(2, dtype=torch.int32, device="meta")
    with pytest.raises(ValueError, match=r"q: expected at most 2\*\*29 tokens, got 536870913"):
        sa.attention_varlen(tokens, tokens, tokens, ends, ends, 5, 5)


@pytest.mark.parametrize("length", [*INT32, END, -1])
def test_lengths_out_of_range_are_clamped(length):
    """As the operator has them from a device that nobody looked at, of slices that lie far from 0."""
    q = torch.ones(1, 1, 9, 8)
    lengths = torch.tensor([length], dtype=torch.int32)
    for start in (FIRST, 0, LAST - 8):
        real = 9 if start < 0 or length > 0 else 0
        assert int(raw(q, q, start, start, lengths=lengths)[0, 0, :, 0].sum()) == real


HUGE = 10**30
NEAR_THE_END = 2**30
WIDE = {
    "window": sa.SlidingWindow(HUGE, HUGE),
    "window causal": sa.SlidingWindow.causal(HUGE),
    "window of all": sa.SlidingWindow(2 * (END - 1) - 1, 2 * (END - 1) - 1),
    "window right": sa.SlidingWindow(None, NEAR_THE_END),
    "streaming": sa.Streaming(HUGE, HUGE),
    "streaming sink": sa.Streaming(END - 5, 3),
    "streaming window": sa.Streaming(0, 2 * (END - 1)),
    "diagonal": sa.BlockDiagonal(NEAR_THE_END),
    "diagonal 2**29": sa.BlockDiagonal(END, causal=True),
    "diagonal far": sa.BlockDiagonal(END - 7),
    "dilated": sa.Dilated(HUGE, NEAR_THE_END),
    "dilated one": sa.Dilated(HUGE, 1, causal=False),
    "dilated 3": sa.Dilated(HUGE, 3, causal=False),
    "dilated far": sa.Dilated(2, 2 * (END - 1)),
    "dilated 2**29": sa.Dilated(3, END - 1, causal=False),
    "strided": sa.Strided(1, NEAR_THE_END),
    "strided local": sa.Strided(HUGE, 7),
    "strided far": sa.Strided(1, END - 1),
    "fixed": sa.Fixed(NEAR_THE_END, NEAR_THE_END),
    "fixed 2**29": sa.Fixed(END, 3),
    "fixed far": sa.Fixed(END - 3, 5),
    "longformer": sa.Longformer(HUGE, HUGE),
    "longformer prefix": sa.Longformer(1, END - 5),
    "longformer dilated": sa.Longformer(HUGE, 0, dilation=NEAR_THE_END),
    "longformer last": sa.Longformer(0, (END - 1, END - 7, 0)),
    "longformer last causal": sa.Longformer(2, (END - 1, 3), causal=True),
    "bigbird": sa.BigBird(NEAR_THE_END, length=END),
    "bigbird 2**29": sa.BigBird(END - 3, window=1, last=0, random=0),
    "bigbird many": sa.BigBird(2**20, window=2**30 - 1, first=2**30, last=2**30, length=END),
}
PLACES = [
    (FIRST, 40, FIRST, 40),
    (LAST - 39, 40, LAST - 39, 40),
    (FIRST, 40, LAST - 69, 70),
    (LAST - 69, 70, FIRST, 40),
    (LAST - 39, 40, 0, 70),
    (0, 40, FIRST, 70),
    (-20, 40, -30, 70),
    (END // 2, 70, END // 2 - 30, 70),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("name", WIDE)
def test_large_numbers_at_all_positions(name, place):
    """to_dense, density and the kernels, whose numbers have 32 bits, against the formulas in 64 bits."""
    pattern, (q_start, Nq, k_start, Nk) = WIDE[name], place
    i, j = torch.arange(Nq)[None, None, :, None] + q_start, torch.arange(Nk) + k_start
    kept = big_bird(pattern, i, j) if isinstance(pattern, sa.BigBird) else dense_mask(pattern, i, j)
    kept = kept.expand(1, 1, Nq, Nk)
    assert torch.equal(pattern.to_dense(Nq, Nk, q_start=q_start, k_start=k_start).expand_as(kept), kept)
    density = pattern.density(Nq, Nk, q_start=q_start, k_start=k_start)
    assert density == pytest.approx(kept.float().mean().item(), abs=1e-6)
    # Rows of q = 0 weigh what they keep evenly, and v of each key is a feature of its own.
    v = torch.eye(72)[:Nk].view(1, 1, Nk, 72).requires_grad_()
    q, k = torch.zeros(1, 1, Nq, 72), torch.zeros(1, 1, Nk, 72)
    out = sa.attention(q, k, v, pattern, q_start=q_start, k_start=k_start)
    weights = kept.float() / kept.sum(-1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(out[..., :Nk], weights, atol=1e-6, rtol=0)
    grad = torch.randn(1, 1, Nq, 72)
    torch.testing.assert_close(torch.autograd.grad(out, v, grad)[0], weights.mT @ grad, atol=1e-5, rtol=0)


def big_bird(pattern, i, j):
    """Of blocks so large that all of them are neighbours, first or last."""
    length = int(j[-1]) + 1 if pattern.length is None else pattern.length
    end = -(-max(0, length) // pattern.block) * pattern.block
    kept = (i >= 0) & (i < end) & (j >= 0) & (j < end)
    if pattern.window == 1 and pattern.first == 1:
        rows, columns = i // pattern.block, j // pattern.block
        kept = kept & ((rows == columns) | (rows == 0) | (columns == 0))
    return kept


def test_tokens_past_a_problem_cost_nothing():
    """Global tokens that no query and no key is leave no bits behind."""
    pattern = sa.Longformer(3, (5, 70, END - 1))
    (words,) = pattern.tensors(Extent(1, 1, 10, 60, CPU))
    assert words.shape == (2,)
    (words,) = pattern.tensors(Extent(1, 1, 10, 60, CPU, q_start=65))
    assert words.shape == (3,)


@pytest.mark.parametrize("scale", [1e39, -1e300, 2.0**127])
def test_scales_that_no_float32_holds_are_refused(scale, device):
    q = zeros(3, device)
    with pytest.raises(ValueError, match="scale: expected a number below"):
        sa.attention(q, q, q, scale=scale)
    with pytest.raises(RuntimeError, match=r"scale is .* expected a finite number below"):
        rows = None, None, None, None, 0, 0, 0, 0
        FORWARD(q, q, q, "full", [], [], "softmax", [], [], *rows, scale, False)
