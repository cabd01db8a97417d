"""longnet_attention against dense masks, one for each branch and head."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.gradcheck import GradcheckError

from splash_attention.longnet import longnet_attention

pytestmark = pytest.mark.usefixtures("one_thread")

SEGMENTS = {
    "dense": ((1000, 1),),
    "one": ((16, 2),),
    "two": ((8, 1), (32, 4)),
    "three": ((7, 1), (20, 3), (45, 5)),  # 20 is no multiple of 3: tokens are gathered
    "beyond": ((64, 1), (999, 6)),  # N < w
    "wide": ((4, 7), (3, 3)),  # residues without tokens in a segment
    "holes": ((10, 4), (25, 4)),  # few heads: most tokens are not covered
    "same": ((12, 3), (12, 3)),  # both branches are one problem
}
HEADS = [(2, 2), (6, 6), (8, 2), (6, 2), (4, 1), (5, 5), (12, 2)]


def draw(shape, kv_heads, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kv_shape = (shape[0], kv_heads, *shape[2:])
    sizes = (shape, kv_shape, kv_shape, shape)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def oracle(q, k, v, segments, causal=True, scale=None, lengths=None):
    """The definition, dense and in float64: SPEC section 2."""
    q, k, v = q.double(), k.double(), v.double()
    batch, heads, N, dim = q.shape
    k, v = (t.repeat_interleave(heads // t.shape[1], 1) for t in (k, v))
    scores = (q @ k.transpose(-1, -2)) * (dim**-0.5 if scale is None else scale)
    i, j, h = torch.arange(N)[:, None], torch.arange(N)[None], torch.arange(heads)[:, None, None]
    real = torch.full((batch, 1, N, N), True)
    if lengths is not None:
        real = ((i < lengths[:, None, None]) & (j < lengths[:, None, None]))[:, None]
    outs, lses = [], []
    for w, r in segments:
        seen = (i // w == j // w) & ((i % w) % r == h % r) & ((j % w) % r == h % r)
        kept = real & (seen & (j <= i) if causal else seen)
        empty = ~kept.any(-1, keepdim=True)
        masked = scores.masked_fill(~kept, -torch.inf).masked_fill(empty, 0)
        outs.append(torch.softmax(masked, -1).masked_fill(empty, 0) @ v)
        lses.append(masked.logsumexp(-1).masked_fill(empty[..., 0], -torch.inf))
    sums = torch.stack(lses).detach().exp()
    shares = sums / sums.sum(0).clamp(min=1e-300)
    return (torch.stack(outs) * shares[..., None]).sum(0)


def with_gradients(function, q, k, v, grad):
    inputs = [t.detach().requires_grad_() for t in (q, k, v)]
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def assert_agree(got, want, bound):
    for name, a, b in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
        error = (a.double() - b).abs().max().item()
        assert error <= bound * max(1, b.abs().max().item()), f"{name}: {error}"


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("segments", SEGMENTS)
def test_against_dense_masks(segments, heads, causal, batch):
    """Residues of one batch entry share calls of attention."""
    segments = SEGMENTS[segments]
    *inputs, grad = draw((batch, heads[0], 53, 8), heads[1])
    got = with_gradients(lambda q, k, v: longnet_attention(q, k, v, segments, causal), *inputs, grad)
    want = with_gradients(lambda q, k, v: oracle(q, k, v, segments, causal), *inputs, grad)
    assert_agree(got, want, 1e-12)


@pytest.mark.parametrize("N", [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("segments", ["two", "three", "wide"])
def test_every_length(segments, N):
    segments = SEGMENTS[segments]
    *inputs, grad = draw((1, 4, N, 4), 2)
    got = with_gradients(lambda q, k, v: longnet_attention(q, k, v, segments), *inputs, grad)
    assert got[0].shape == inputs[0].shape
    if N:
        assert_agree(got, with_gradients(lambda q, k, v: oracle(q, k, v, segments), *inputs, grad), 1e-12)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    segments=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4),
    groups=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    N=st.integers(1, 70),
    batch=st.integers(1, 2),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.0, -0.4, 3.0]),
    seed=st.integers(0, 100),
)
def test_any_segments(segments, groups, N, batch, causal, scale, seed):
    kv_heads, group = groups
    *inputs, grad = draw((batch, kv_heads * group, N, 5), kv_heads, seed=seed)
    lengths = None if seed % 2 else torch.tensor([N - seed % N, seed % N][:batch])
    options = {"causal": causal, "scale": scale, "lengths": lengths}
    got = with_gradients(lambda *qkv: longnet_attention(*qkv, segments, **options), *inputs, grad)
    want = with_gradients(lambda *qkv: oracle(*qkv, segments, **options), *inputs, grad)
    assert_agree(got, want, 1e-11)


@pytest.mark.parametrize("lengths", [(53, 0, 1, 20, 37)], ids=str)
@pytest.mark.parametrize("segments", ["two", "three", "wide", "beyond"])
def test_lengths(segments, lengths):
    segments, lengths = SEGMENTS[segments], torch.tensor(lengths)
    *inputs, grad = draw((5, 4, 53, 8), 4)
    got = with_gradients(lambda *qkv: longnet_attention(*qkv, segments, lengths=lengths), *inputs, grad)
    want = with_gradients(lambda *qkv: oracle(*qkv, segments, lengths=lengths), *inputs, grad)
    assert_agree(got, want, 1e-12)
    padding = torch.arange(53) >= lengths[:, None]
    for tensor in got:
        assert (tensor.transpose(1, 2)[padding] == 0).all()


BOUNDS = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("segments", ["two", "three"])
def test_dtypes(segments, dtype):
    segments = SEGMENTS[segments]
    *inputs, grad = draw((1, 6, 70, 16), 2, dtype)
    got = with_gradients(lambda *qkv: longnet_attention(*qkv, segments, scale=0.3), *inputs, grad)
    want = with_gradients(lambda *qkv: oracle(*qkv, segments, scale=0.3), *(t.double() for t in (*inputs, grad)))
    assert all(tensor.dtype is dtype for tensor in got)
    assert_agree(got, want, BOUNDS[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("segments", SEGMENTS)
def test_cuda_forward(segments, heads):
    """Branches are strided views of the inputs, of every head dimension in turn."""
    turn = HEADS.index(heads)
    dim, dtype = (32, 64, 96, 128, 192, 256, 40)[turn], (torch.bfloat16, torch.float16)[turn % 2]
    batch = 1 + turn % 2
    q, k, v, _ = draw((batch, heads[0], 250, dim), heads[1], dtype)
    options = ({}, {"causal": False}, {"lengths": torch.tensor([117, 250][:batch])})[(turn + len(segments)) % 3]
    on_gpu = {name: value.cuda() if name == "lengths" else value for name, value in options.items()}
    got = longnet_attention(q.cuda(), k.cuda(), v.cuda(), SEGMENTS[segments], **on_gpu).cpu()
    want = oracle(q, k, v, SEGMENTS[segments], **options)
    error = (got.double() - want).abs().max().item()
    assert error <= BOUNDS[dtype] * max(1, want.abs().max().item())


def test_tokens_that_no_branch_covers_are_not_read():
    """NaN in them, and in all rows past a length, reaches no output and no gradient."""
    segments, lengths = SEGMENTS["holes"], torch.tensor([53, 30])
    *inputs, grad = draw((2, 2, 53, 8), 2)
    token, head = torch.arange(53), torch.arange(2)[:, None]
    covered = torch.stack([token % w % r == head % r for w, r in segments]).any(0)
    read = (covered & (token < lengths[:, None, None]))[..., None]
    assert 0 < covered.sum() < covered.numel()
    want = with_gradients(lambda *qkv: longnet_attention(*qkv, segments, lengths=lengths), *inputs, grad)
    poisoned = [t.masked_fill(~read, torch.nan) for t in (*inputs, grad)]
    got = with_gradients(lambda *qkv: longnet_attention(*qkv, segments, lengths=lengths), *poisoned)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b) and (a.masked_fill(read, 0) == 0).all()


def test_strided_inputs():
    """(B, N, H, D) storage, as a projection leaves it."""
    *inputs, grad = draw((2, 4, 40, 8), 4)
    got = with_gradients(lambda *qkv: longnet_attention(*qkv, SEGMENTS["two"]), *inputs, grad)
    other = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in inputs]
    assert_agree(with_gradients(lambda *qkv: longnet_attention(*qkv, SEGMENTS["two"]), *other, grad), got, 0)


def test_residues_share_calls():
    """One call a branch where all residues have as many tokens and a dimension of the inputs is free for them."""
    calls = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator is torch.ops.splash.attention_forward.default:
                calls.append(args[0].shape)
            return operator(*args, **(kwargs or {}))

    for shape, kv_heads, want in (
        ((1, 16, 64, 8), 16, [(1, 16, 64, 8), (4, 4, 16, 8), (1, 16, 4, 8)]),
        ((1, 16, 64, 8), 4, [(1, 16, 64, 8), (4, 4, 16, 8), *[(1, 4, 4, 8)] * 4]),
        ((2, 16, 64, 8), 16, [(2, 16, 64, 8), *[(2, 4, 16, 8)] * 4, (2, 16, 4, 8)]),
        ((1, 4, 61, 8), 4, [(1, 4, 61, 8), (1, 1, 16, 8), (1, 3, 15, 8), (1, 4, 4, 8)]),
    ):
        calls.clear()
        *inputs, _ = draw(shape, kv_heads)
        with Counting():
            longnet_attention(*inputs, ((8, 1), (32, 4), (64, 16)))
        assert calls == [torch.Size(size) for size in want]


def test_one_dense_segment_is_causal_attention():
    q, k, v, _ = draw((1, 4, 40, 8), 2)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(longnet_attention(q, k, v, ((40, 1),)), want)


def test_weights_carry_no_gradient():
    """The gradient is that of a sum with constant weights, which finite differences of the output do not give."""
    *inputs, _ = draw((1, 1, 12, 2), 1, seed=3)
    segments = ((3, 1), (6, 1))
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda *qkv: longnet_attention(*qkv, segments), [t.requires_grad_() for t in inputs])
    assert torch.autograd.gradcheck(lambda *qkv: longnet_attention(*qkv, ((3, 1),)), inputs)


def test_compile():
    """Strided and gathered branches in one graph."""
    segments = ((8, 2), (20, 3))
    compiled = torch.compile(lambda *qkv: longnet_attention(*qkv, segments), fullgraph=True, backend="aot_eager")
    *inputs, grad = draw((1, 4, 50, 8), 2)
    want = with_gradients(lambda *qkv: longnet_attention(*qkv, segments), *inputs, grad)
    assert_agree(with_gradients(compiled, *inputs, grad), want, 1e-14)


def test_compile_dynamic():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda *qkv: longnet_attention(*qkv, ((8, 1), (16, 2))), fullgraph=True, backend=counter, dynamic=True
    )
    for N in (50, 64, 71, 33):
        *inputs, grad = draw((1, 4, N, 8), 4)
        want = with_gradients(lambda *qkv: longnet_attention(*qkv, ((8, 1), (16, 2))), *inputs, grad)
        assert_agree(with_gradients(compiled, *inputs, grad), want, 1e-14)
    assert counter.frame_count <= 2


def test_functional_transforms():
    generator = torch.Generator().manual_seed(4)
    q, k, v, grad = (torch.randn(3, 1, 2, 20, 4, generator=generator, dtype=torch.float64) for _ in range(4))
    segments = ((5, 1), (10, 2))

    def loss(q, k, v, grad):
        return (longnet_attention(q, k, v, segments) * grad).sum()

    mapped = torch.func.vmap(torch.func.grad(loss, (0, 1, 2)))(q, k, v, grad)
    for n in range(3):
        each = torch.func.grad(loss, (0, 1, 2))(q[n], k[n], v[n], grad[n])
        for a, b in zip(mapped, each, strict=True):
            torch.testing.assert_close(a[n], b)


def test_deterministic():
    *inputs, grad = draw((2, 6, 64, 8), 2, torch.float32)
    run = lambda: with_gradients(  # noqa: E731
        lambda *qkv: longnet_attention(*qkv, SEGMENTS["three"], deterministic=True), *inputs, grad
    )
    for a, b in itertools.combinations([run() for _ in range(3)], 2):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


BAD = [
    ({"segments": ()}, ValueError, "segments"),
    ({"segments": 5}, TypeError, "segments"),
    ({"segments": ((4,),)}, ValueError, "pairs"),
    ({"segments": ((4, 2, 1),)}, ValueError, "pairs"),
    ({"segments": (4, 2)}, ValueError, "pairs"),
    ({"segments": ((4, 0),)}, ValueError, "r from 1"),
    ({"segments": ((0, 1),)}, ValueError, "w from 1"),
    ({"segments": ((4.0, 1),)}, TypeError, "float"),
    ({"segments": ((True, 1),)}, TypeError, "bool"),
    ({"causal": 1}, TypeError, "causal"),
    ({"k": torch.zeros(1, 2, 9, 4), "v": torch.zeros(1, 2, 9, 4)}, ValueError, "as many keys"),
    ({"lengths": torch.tensor([11])}, ValueError, "lengths"),
    ({"lengths": torch.tensor([1.0])}, TypeError, "lengths"),
    ({"scale": float("nan")}, ValueError, "scale"),
    ({"q": torch.zeros(1, 3, 10, 4)}, ValueError, "heads"),
]


@pytest.mark.parametrize("change, error, text", BAD, ids=[str(n) for n in range(len(BAD))])
def test_refused(change, error, text):
    tensor = torch.zeros(1, 2, 10, 4)
    arguments = {"q": tensor, "k": tensor, "v": tensor, "segments": ((5, 1),), **change}
    with pytest.raises(error, match=text):
        longnet_attention(**arguments)
