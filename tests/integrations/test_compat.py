"""compat.adasplash on the problems that AdaSplash and flash-lazy-attention publish as their tests.

The sizes, exponents, lengths and options are theirs (adasplash 0.2, tests/; flash-lazy-attention, tests/), the tests
are ours. Theirs compare with entmax_bisect on a GPU; here all is compared with entmax_bisect in float64 on the CPU,
with bounds of our own. Where a problem is large, some rows are compared and dO is zero elsewhere.
"""

import inspect

import pytest
import torch
from entmax import entmax_bisect
from torch.autograd import gradcheck

from splash_attention.compat import adasplash as compat

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 64
BOUNDS = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3}


def draw(*shape, dtype=torch.float32, seed=42, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def problem(batch, heads, kv_heads, N, dim, dtype=torch.float32, device="cpu"):
    """q, k, v that require gradients, and dO."""
    sizes = (heads, kv_heads, kv_heads, heads)
    q, k, v, grad = (draw(batch, h, N, dim, dtype=dtype, seed=n, device=device) for n, h in enumerate(sizes))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), grad


def dense(q, k, v, rows, alpha, causal, length):
    """The output in some rows of one batch entry, by entmax_bisect over the first `length` keys."""
    q, k, v = q[:, rows].double(), k[:, :length].double(), v[:, :length].double()
    k, v = (t.repeat_interleave(q.shape[0] // t.shape[0], 0) for t in (k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.arange(length, device=q.device) > rows[:, None], -1e4)
    return entmax_bisect(scores, alpha=alpha, n_iter=60) @ v


def compare(function, q, k, v, grad, alpha, causal, varlen=None, backward=True):
    """function(q, k, v) against dense() in at most ROWS rows of each batch entry, and its gradients."""
    bound = BOUNDS[q.dtype]
    N = q.shape[2]
    lengths = [N] * q.shape[0] if varlen is None else varlen.tolist()
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randperm(length, generator=generator)[:ROWS].sort().values.to(q.device) for length in lengths]
    out = function(q, k, v)
    assert out.shape == q.shape and out.dtype is q.dtype
    mask = torch.zeros_like(grad)
    total = 0
    for b, length in enumerate(lengths):
        want = dense(q[b], k[b], v[b], rows[b], alpha, causal, length)
        torch.testing.assert_close(out[b, :, rows[b]].double(), want, rtol=bound, atol=bound)
        assert (out[b, :, length:] == 0).all()
        mask[b, :, rows[b]] = 1
        total = total + (want * grad[b, :, rows[b]]).sum()
    if backward:
        got = torch.autograd.grad(out, (q, k, v), grad * mask)
        for name, a, b in zip("qkv", got, torch.autograd.grad(total, (q, k, v)), strict=True):
            torch.testing.assert_close(a, b, rtol=10 * bound, atol=10 * bound, msg=lambda text, name=name: name + text)


# Version 1: adasplash_v1 and adasplash_no_block_mask

V1 = pytest.mark.parametrize(
    "function",
    [compat.adasplash_v1, compat.adasplash_no_block_mask],
    ids=["adasplash_v1", "adasplash_no_block_mask"],
)


@V1
def test_v1_smoke(function):
    varlen = torch.tensor([96])
    compare(
        lambda *qkv: function(*qkv, alpha=1.5, varlen=varlen, is_causal=True),
        *problem(1, 1, 1, 128, 32),
        1.5,
        True,
        varlen,
    )


@V1
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("alpha", [1.333, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_v1_forward(function, alpha, causal, dtype):
    for batch, heads, N, dim in ((1, 1, 128, 32), (2, 1, 256, 32), (1, 2, 256, 64), (2, 2, 128, 64)):
        varlen = torch.randint(N // 2, N, (batch,), generator=torch.Generator().manual_seed(N))
        compare(
            lambda *qkv, varlen=varlen: function(*qkv, alpha=alpha, varlen=varlen, is_causal=causal),
            *problem(batch, heads, heads, N, dim, dtype),
            alpha,
            causal,
            varlen,
            backward=False,
        )


@V1
@pytest.mark.parametrize("alpha", [1.5, 2.0])
@pytest.mark.parametrize("N", [256, 512])
def test_v1_backward(function, N, alpha):
    compare(lambda *qkv: function(*qkv, alpha=alpha), *problem(2, 2, 2, N, 64), alpha, False)


@V1
@pytest.mark.parametrize("N", [512, 1024])
def test_v1_large_values(function, N):
    q, k, v = (100 * draw(2, 2, N, 64, dtype=torch.float16, seed=n) for n in range(3))
    out = function(q, k, v, alpha=1.5)
    assert out.isfinite().all() and out.abs().max() < 1e3


@V1
@pytest.mark.parametrize("N", [64, 128])
def test_v1_uniform_weights(function, N):
    """Scores of zero: every key has the same weight."""
    q, v = torch.zeros(1, 1, N, 64), draw(1, 1, N, 64)
    torch.testing.assert_close(function(q, q, torch.ones_like(q)), torch.ones_like(q))
    torch.testing.assert_close(function(q, q, v), v.mean(2, keepdim=True).expand_as(v), rtol=1e-5, atol=1e-6)


@V1
def test_v1_padding_is_zero(function):
    q, k, v, _ = problem(2, 1, 1, 256, 64)
    out = function(q, k, v, varlen=torch.tensor([128, 64]))
    assert (out[0, :, 128:] == 0).all() and (out[1, :, 64:] == 0).all() and (out[1, :, :64] != 0).any()


@V1
@pytest.mark.parametrize("N", [512, 1024])
def test_v1_float16(function, N):
    compare(lambda *qkv: function(*qkv, alpha=1.5), *problem(1, 1, 1, N, 64, torch.float16), 1.5, False)


# Version 2: adasplash_v2, adasplash2 and adasplash


def test_v2_smoke():
    compare(lambda *qkv: compat.adasplash_v2(*qkv, niter=10), *problem(1, 1, 1, 256, 32), 1.5, True)


def test_v2_lengths_and_groups_smoke():
    varlen = torch.tensor([160], dtype=torch.int32)
    compare(
        lambda *qkv: compat.adasplash_v2(*qkv, niter=10, varlen=varlen), *problem(1, 2, 1, 256, 32), 1.5, True, varlen
    )


@pytest.mark.parametrize("N", [1024, 2048])
def test_v2(N):
    compare(lambda *qkv: compat.adasplash_v2(*qkv, niter=10), *problem(2, 2, 2, N, 64), 1.5, True)


@pytest.mark.parametrize("N", [4096, 16384])
def test_v2_long(N):
    compare(compat.adasplash_v2, *problem(1, 1, 1, N, 64), 1.5, True, backward=N == 4096)


@pytest.mark.parametrize(
    "N, varlen",
    [(2048, (1000, 1500)), (4096, (3333, 2000)), (2048, (1024, 1024)), (4096, (64, 4096)), (1024, (65, 130))],
)
def test_v2_lengths(N, varlen):
    heads = 2 if N < 4096 else 1
    varlen = torch.tensor(varlen, dtype=torch.int32)
    compare(
        lambda *qkv: compat.adasplash2(*qkv, niter=10, varlen=varlen),
        *problem(2, heads, heads, N, 64),
        1.5,
        True,
        varlen,
    )


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
def test_v2_groups(kv_heads):
    compare(lambda *qkv: compat.adasplash(*qkv, niter=10), *problem(2, 8, kv_heads, 1024, 64), 1.5, True)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("N, varlen", [(2048, (1000, 1500)), (1024, (65, 130))])
def test_v2_groups_and_lengths(N, varlen, kv_heads):
    varlen = torch.tensor(varlen, dtype=torch.int32)
    heads = 8 if N == 1024 else kv_heads * 2
    compare(lambda *qkv: compat.adasplash(*qkv, varlen=varlen), *problem(2, heads, kv_heads, N, 64), 1.5, True, varlen)


# The dispatcher and the arguments that tune upstream's solvers


def test_dispatch():
    """adasplash() is causal at alpha 1.5; every number of iterations gives the same."""
    q, k, v, _ = problem(1, 2, 2, 100, 16)
    want = compat.adasplash(q, k, v)
    for same in (
        compat.adasplash(q, k, v, niter=1),
        compat.adasplash(q, k, v, 1.5, True, None, 3),
        compat.adasplash_v2(q, k, v, 1, None),
        compat.adasplash_v1(q, k, v, is_causal=True, niter=2),
        compat.adasplash_no_block_mask(q, k, v, 1.5, True, None, 1),
    ):
        assert torch.equal(same, want)
    full = compat.adasplash(q, k, v, is_causal=False)
    assert not torch.allclose(full, want)
    assert torch.equal(full, compat.adasplash_v1(q, k, v)) and torch.equal(
        full, compat.adasplash_no_block_mask(q, k, v)
    )
    assert not torch.allclose(compat.adasplash(q, k, v, alpha=2.0), want)


SIGNATURES = {
    "adasplash": "q, k, v, alpha=1.5, is_causal=True, varlen=None, niter=None",
    "adasplash_v1": "q, k, v, alpha=1.5, is_causal=False, varlen=None, niter=10",
    "adasplash_no_block_mask": "q, k, v, alpha=1.5, is_causal=False, varlen=None, niter=10",
    "adasplash_v2": "q, k, v, niter=1, varlen=None",
    "adasplash2": "q, k, v, niter=1, varlen=None",
    "lazy_attention_triton": "q, k, v, bias, tau, window_size=512, varlen=None",
    "triton_entmax": "x, alpha=1.5, n_iter=2, use_histogram=True, fast_math=False",
    "triton_entmax_v1": "x, alpha=1.5, n_iter=10, fast_math=True",
    "triton_entmax_v2": "x, alpha=1.5, n_iter=2, use_histogram=True, fast_math=False",
    "triton_sparsemax": "x, *, n_iter=2, use_histogram=True, fast_math=False",
    "triton_entmax15": "x, *, n_iter=2, use_histogram=True, fast_math=False",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    signature = inspect.signature(getattr(compat, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"


def test_all_names():
    assert set(compat.__all__) == {*SIGNATURES, "LazyAttention"}


# Entmax of plain tensors

ENTMAX = pytest.mark.parametrize(
    "function", [compat.triton_entmax_v1, compat.triton_entmax_v2, compat.triton_entmax], ids=lambda f: f.__name__
)


def entmax_gradient(function, x, grad):
    x = x.detach().requires_grad_()
    out = function(x)
    return out.detach(), torch.autograd.grad(out, x, grad.to(out.dtype))[0]


@ENTMAX
@pytest.mark.parametrize("fast_math", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("alpha", [1.333, 1.5, 2.0])
@pytest.mark.parametrize("shape", [(2,), (2, 4), (2, 4, 8), (2, 4, 8, 16), (2, 16)], ids=str)
def test_entmax(function, shape, alpha, dtype, fast_math):
    x, grad = draw(*shape, dtype=dtype), draw(*shape, seed=1)
    out, dx = entmax_gradient(lambda x: function(x, alpha=alpha, n_iter=10, fast_math=fast_math), x, grad)
    want, want_dx = entmax_gradient(lambda x: entmax_bisect(x, alpha=alpha, n_iter=60), x.double(), grad)
    bound = BOUNDS[dtype]
    assert out.dtype is dtype and dx.dtype is dtype
    torch.testing.assert_close(out.double(), want, rtol=bound, atol=bound)
    torch.testing.assert_close(out.double().sum(-1), torch.ones(shape[:-1]).double(), rtol=0, atol=4 * bound)
    assert torch.equal(out == 0, want == 0) or dtype is torch.float16
    if dtype is torch.float32:
        # At alpha 1.333 the gradient divides by p^0.667, which entmax_bisect leaves inexact next to 0.
        loose = 1e-3 if alpha == 1.333 else 1e-4
        torch.testing.assert_close(dx.double(), want_dx, rtol=loose, atol=loose)


@ENTMAX
def test_entmax_gradcheck(function):
    """In float64, which upstream's kernels do not compile."""
    for alpha in (1.333, 1.5, 2.0):
        x = draw(2, 4, dtype=torch.float64).requires_grad_()
        assert gradcheck(lambda x, alpha=alpha: function(x, alpha=alpha), x)


def test_entmax_histogram_and_aliases():
    x = draw(4, 16)
    with_histogram = compat.triton_entmax_v2(x, alpha=1.5, use_histogram=True)
    assert torch.equal(with_histogram, compat.triton_entmax_v2(x, alpha=1.5, use_histogram=False, n_iter=10))
    assert torch.equal(with_histogram, compat.triton_entmax15(x, n_iter=3))
    torch.testing.assert_close(with_histogram, entmax_bisect(x, alpha=1.5))
    sparse = compat.triton_sparsemax(x, use_histogram=False, fast_math=True)
    torch.testing.assert_close(sparse, entmax_bisect(x, alpha=2.0))
    with pytest.raises(TypeError):
        compat.triton_sparsemax(x, alpha=1.5)


def test_entmax_of_large_values():
    x = (100 * draw(2, 32)).requires_grad_()
    y = compat.triton_entmax(x, alpha=1.5, n_iter=10)
    assert y.isfinite().all() and (y >= 0).all()
    y.sum().backward()
    assert x.grad.isfinite().all()


# Lazy attention


def lazy_problem(batch, heads, N, dim, distances, dtype=torch.float64):
    q, k, v, grad = problem(batch, heads, heads, N, dim, dtype)
    bias = draw(heads, distances, dtype=dtype, seed=8).requires_grad_()
    tau = torch.full((heads,), -1.0, dtype=dtype).requires_grad_()
    return q, k, v, bias, tau, grad


def lazy_dense(q, k, v, bias, tau, varlen=None):
    """Elastic softmax by dense matrices; a bias for the distances 0 to bias.shape[1] - 1."""
    N = q.shape[2]
    distance = torch.arange(N)[:, None] - torch.arange(N)
    padded = torch.nn.functional.pad(bias, (0, max(0, N - bias.shape[1])))[:, :N]
    scores = q @ k.mT / q.shape[3] ** 0.5 + padded[:, distance.clamp(min=0)]
    kept = (distance >= 0).expand(q.shape[0], 1, N, N)
    if varlen is not None:
        kept = kept & (torch.arange(N) < varlen[:, None])[:, None, None]
    weights = scores.masked_fill(~kept, -torch.inf).softmax(-1)
    weights = torch.relu(weights + tau[:, None, None] / torch.arange(1, N + 1)[:, None]).masked_fill(~kept, 0)
    out = weights @ v
    return out if varlen is None else out.masked_fill((torch.arange(N) >= varlen[:, None])[:, None, :, None], 0)


LAZY = {  # batch, heads, N, dim, window_size, distances in the bias, varlen
    "forward": (2, 4, 128, 64, 32, 33, None),
    "backward": (2, 4, 64, 32, 16, 17, None),
    "small": (1, 1, 32, 16, 8, 9, None),
    "lengths": (2, 4, 128, 64, 32, 33, (64, 100)),
    "shorter": (2, 2, 64, 32, 16, 17, (32, 48)),
    "window distances": (2, 4, 64, 32, 16, 16, (32, 48)),
    "longer than the sequence": (1, 2, 24, 16, 100, 101, None),
    "any": (1, 2, 40, 16, None, 7, None),
}


@pytest.mark.parametrize("name", LAZY)
def test_lazy_attention_triton(name):
    *sizes, window, distances, varlen = LAZY[name]
    varlen = None if varlen is None else torch.tensor(varlen, dtype=torch.int32)
    *inputs, grad = lazy_problem(*sizes, distances)
    got = compat.lazy_attention_triton(*inputs, window_size=window, varlen=varlen)
    want = lazy_dense(*inputs, varlen)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    for a, b in zip(torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_lazy_attention_triton_defaults():
    """512 distances, or 513, and all the sequence."""
    for distances in (512, 513):
        *inputs, _ = lazy_problem(1, 2, 600, 8, distances)
        torch.testing.assert_close(compat.lazy_attention_triton(*inputs), lazy_dense(*inputs))
    *inputs, _ = lazy_problem(1, 2, 600, 8, 511)
    with pytest.raises(ValueError, match="bias: expected 512 or 513 distances"):
        compat.lazy_attention_triton(*inputs)


def test_lazy_attention_triton_parameters_of_16_bits():
    """They are taken as they come, and their gradients have their dtype."""
    *inputs, grad = lazy_problem(1, 2, 50, 16, 9, torch.float32)
    halves = [t.detach().to(torch.bfloat16).requires_grad_() for t in inputs]
    wide = [t.detach().double().requires_grad_() for t in halves]
    got = compat.lazy_attention_triton(*halves, window_size=8)
    want = lazy_dense(*wide)
    torch.testing.assert_close(got.double(), want, rtol=3e-2, atol=3e-2)
    for a, b in zip(
        torch.autograd.grad(got, halves, grad.bfloat16()), torch.autograd.grad(want, wide, grad.double()), strict=True
    ):
        assert a.dtype is torch.bfloat16
        torch.testing.assert_close(a.double(), b, rtol=5e-2, atol=5e-2)


def test_lazy_attention_module():
    module = compat.LazyAttention(dim=32, num_heads=4, window_size=4)
    x = draw(2, 16, 32).requires_grad_()
    out = module(x)
    assert out.shape == (2, 16, 32)
    out.sum().backward()
    for tensor in (x, module.tau, module.attention_biases):
        assert tensor.grad.isfinite().all() and (tensor.grad != 0).any()
    module.tau.data.fill_(-100.0)
    assert (module(x) == 0).all()


# On the GPU: the forward has kernels for 16 bits at alpha 1.5


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("N, dim, varlen", [(256, 64, (130, 250)), (128, 64, (64, 127)), (1024, 64, (65, 130))])
def test_gpu_forward(N, dim, varlen, causal):
    varlen = torch.tensor(varlen, device="cuda")
    inputs = problem(2, 2, 2, N, dim, torch.float16, "cuda")
    with torch.no_grad():
        for function in (compat.adasplash, compat.adasplash_v1, compat.adasplash_no_block_mask):
            compare(
                lambda *qkv, f=function: f(*qkv, is_causal=causal, varlen=varlen),
                *inputs, 1.5, causal, varlen, backward=False,
            )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("N", [1024, 2048, 4096, 16384, 32768])
def test_gpu_v2_forward(N):
    with torch.no_grad():
        compare(compat.adasplash_v2, *problem(1, 2, 1, N, 64, torch.float16, "cuda"), 1.5, True, backward=False)


@pytest.mark.gpu
def test_gpu_large_values_and_uniform_weights():
    q, k, v = (100 * draw(2, 2, 1024, 64, dtype=torch.float16, seed=n, device="cuda") for n in range(3))
    out = compat.adasplash_v1(q, k, v)
    assert out.isfinite().all() and out.abs().max() < 1e3
    zeros = torch.zeros_like(q)
    torch.testing.assert_close(compat.adasplash_v1(zeros, zeros, torch.ones_like(q)), torch.ones_like(q))
