"""Agreement with what others wrote: torch SDPA, the `entmax` package, and FlexAttention run unfused on the CPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import PATTERNS, Case, Shape
from oracle import read_weights
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, create_mask, flex_attention

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")


def tensors(queries, keys, dim=32, heads=4, kv_heads=2, dtype=torch.float32, grad=True):
    generator = torch.Generator().manual_seed(7)

    def draw(heads, length):
        return torch.randn(2, heads, length, dim, generator=generator).to(dtype).requires_grad_(grad)

    return draw(heads, queries), draw(kv_heads, keys), draw(kv_heads, keys)


def assert_same(got, want, inputs, **tolerance):
    """Values, and gradients of a random weighting."""
    torch.testing.assert_close(got, want, **tolerance)
    weighting = torch.randn(want.shape, generator=torch.Generator().manual_seed(8)).to(want.dtype)
    for a, b in zip(
        torch.autograd.grad(got, inputs, weighting), torch.autograd.grad(want, inputs, weighting), strict=True
    ):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_sdpa(causal, scale):
    inputs = tensors(150, 150)
    got = sa.attention(*inputs, "causal" if causal else "full", scale=scale)
    want = F.scaled_dot_product_attention(*inputs, is_causal=causal, scale=scale, enable_gqa=True)
    assert_same(got, want, inputs, rtol=1e-4, atol=1e-5)


def test_sdpa_with_a_mask():
    """A block mask with causal inside, against SDPA with the dense mask."""
    inputs = tensors(150, 170)
    mask = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 0] = True
    row, column = torch.arange(150)[:, None], torch.arange(170)[None]
    dense = mask[:, :, row // 64, column // 64] & (column <= row + 20)
    got = sa.attention(*inputs, sa.BlockMask(mask, 64) & sa.Causal())
    want = F.scaled_dot_product_attention(*inputs, attn_mask=dense, enable_gqa=True)
    assert_same(got, want, inputs, rtol=1e-4, atol=1e-5)


MASK_FUNCTIONS = {
    "causal": (sa.Causal(), lambda b, h, q, k: k <= q),
    "window": (sa.SlidingWindow.causal(33), lambda b, h, q, k: (k <= q) & (q - k < 33)),
    "symmetric": (sa.SlidingWindow.symmetric(20), lambda b, h, q, k: (q - k).abs() <= 20),
    "one-sided": (sa.SlidingWindow(None, 7), lambda b, h, q, k: k <= q + 7),
    "conjunction": (sa.Causal() & sa.SlidingWindow(50, 50), lambda b, h, q, k: (k <= q) & (q - k <= 50)),
    "streaming": (sa.Streaming(4, 30), lambda b, h, q, k: (k <= q) & ((k < 4) | (q - k < 30))),
    "diagonal": (sa.BlockDiagonal(48), lambda b, h, q, k: q // 48 == k // 48),
    "diagonal-causal": (sa.BlockDiagonal(16, causal=True), lambda b, h, q, k: (q // 16 == k // 16) & (k <= q)),
    "dilated": (sa.Dilated(9, 4), lambda b, h, q, k: (k <= q) & ((q - k) % 4 == 0) & (q - k < 36)),
    "dilated-both": (
        sa.Dilated(5, 3, causal=False),
        lambda b, h, q, k: ((q - k) % 3 == 0) & ((q - k).abs() <= 15),
    ),
    "dilated-heads": (
        sa.Dilated(9, (1, 2, 4, 8)),
        lambda b, h, q, k: (k <= q) & ((q - k) % (2**h) == 0) & (q - k < 9 * 2**h),
    ),
    "strided": (sa.Strided(12, 7), lambda b, h, q, k: (k <= q) & ((q - k < 12) | ((q - k) % 7 == 0))),
    "fixed": (sa.Fixed(20, 3), lambda b, h, q, k: (k <= q) & ((q // 20 == k // 20) | (k % 20 >= 17))),
    "longformer": (sa.Longformer(16, 2), lambda b, h, q, k: ((q - k).abs() <= 16) | (k < 2) | (q < 2)),
}


def assert_same_as_flex(pattern, function, inputs):
    """Output and log-sum-exp against FlexAttention; it has no backward on the CPU, so gradients against SDPA."""
    sizes = 2, 4, inputs[0].shape[2], inputs[1].shape[2]
    got, lse = sa.attention(*inputs, pattern, return_statistic=True)
    block_mask = create_block_mask(function, *sizes, device="cpu")
    detached = [t.detach() for t in inputs]
    want, aux = flex_attention(*detached, block_mask=block_mask, enable_gqa=True, return_aux=AuxRequest(lse=True))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse, aux.lse, rtol=1e-5, atol=1e-5)
    mask = create_mask(function, *sizes, device="cpu")
    want = F.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)
    assert_same(got, want, inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MASK_FUNCTIONS)
def test_flex_attention(name):
    pattern, function = MASK_FUNCTIONS[name]
    inputs = tensors(160, 160)
    assert_same_as_flex(pattern, function, inputs)


@pytest.mark.parametrize("name", PATTERNS)
def test_sdpa_with_the_mask_of_every_pattern(name):
    """Outputs and gradients against SDPA with to_dense(), on the rows that keep something."""
    shape = Shape(2, 4, 2, 150, 170, 32)
    case = Case(name, PATTERNS[name], 1, torch.float64, shape)
    inputs = [t.requires_grad_() for t in case.inputs("cpu")[:3]]
    pattern = case.pattern(case, "cpu")
    mask = pattern.to_dense(150, 170, heads=4, batch=2)
    real = mask.any(-1, keepdim=True)
    got = sa.attention(*inputs, pattern)
    want = F.scaled_dot_product_attention(*inputs, attn_mask=mask | ~real, enable_gqa=True).masked_fill(~real, 0)
    assert_same(got, want, inputs, rtol=1e-9, atol=1e-10)


def test_flex_block_mask():
    """BlockMask against FlexAttention over the same blocks."""
    inputs = tensors(256, 256)
    mask = torch.rand(2, 4, 2, 2, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[..., 1] = True
    assert_same_as_flex(sa.BlockMask(mask, 128), lambda b, h, q, k: mask[b, h, q // 128, k // 128], inputs)


@pytest.mark.parametrize("queries, keys", [(50, 64), (64, 64)])
@pytest.mark.parametrize("alpha", [1.5, 2.0, 1.25, 1.75])
def test_entmax(alpha, queries, keys):
    """Weights, read off with v = identity, and their gradients."""
    entmax = pytest.importorskip("entmax")
    functions = {1.5: entmax.entmax15, 2.0: entmax.sparsemax}
    q, k, _ = tensors(queries, keys, dim=64, kv_heads=4, dtype=torch.float64)
    identity = torch.eye(keys, dtype=q.dtype).expand(2, 4, keys, keys)
    got = sa.attention(q, k, identity, "causal", sa.Entmax(alpha), scale=0.5)
    row, column = torch.arange(queries)[:, None], torch.arange(keys)[None]
    scores = (0.5 * q @ k.transpose(-1, -2)).masked_fill(column > row + keys - queries, -math.inf)
    if alpha in functions:
        want = functions[alpha](scores, dim=-1)
    else:
        want = entmax.entmax_bisect(scores, alpha=alpha, dim=-1, n_iter=60)
    assert torch.equal(got == 0, want == 0) or alpha not in functions
    assert_same(got, want, (q, k), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_entmax_of_long_rows_in_float32(alpha):
    entmax = pytest.importorskip("entmax")
    q, k, _ = tensors(40, 700, dim=64, kv_heads=4, grad=False)
    got = read_weights(lambda *qkv: sa.attention(*qkv, "full", alpha, scale=0.3), q, k)
    function = entmax.entmax15 if alpha == 1.5 else entmax.sparsemax
    want = function(0.3 * q.double() @ k.double().transpose(-1, -2), dim=-1)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
