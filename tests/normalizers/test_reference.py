"""The reference against what others wrote: `entmax` from PyPI, Torch's SDPA and FlexAttention."""

import entmax as published
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

import splash_attention as sa
from splash_attention import reference
from splash_attention.reference import normalizers, reference_attention

PUBLISHED = {
    1.5: lambda x: published.entmax15(x, dim=-1),
    2: lambda x: published.sparsemax(x, dim=-1),
    **{
        alpha: lambda x, alpha=alpha: published.entmax_bisect(x, alpha, n_iter=100) for alpha in (1.01, 1.1, 1.25, 1.75)
    },
}

MASK_MODS = {
    "full": (sa.Full(), lambda i, j: (i - j) == (i - j)),
    "causal": (sa.Causal(), lambda i, j: j <= i),
    "window": (sa.SlidingWindow.causal(7), lambda i, j: (j <= i) & (i - j < 7)),
    "symmetric": (sa.SlidingWindow.symmetric(5), lambda i, j: (i - j).abs() <= 5),
    "left": (sa.SlidingWindow(4, None), lambda i, j: j >= i - 4),
    "right": (sa.SlidingWindow(None, 3), lambda i, j: j <= i + 3),
    "conjunction": (sa.Causal() & sa.SlidingWindow(9, 30), lambda i, j: (j <= i) & (j >= i - 9)),
}


def inputs(Nq=40, Nk=56, heads=4, kv_heads=2, dim=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, heads, Nq, dim), (2, kv_heads, Nk, dim), (2, kv_heads, Nk, dim)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def rows(scale, length=50, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(6, length, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("scale", [0, 1e-3, 1, 8, 100])
@pytest.mark.parametrize("alpha", PUBLISHED)
def test_entmax_is_the_published_one(alpha, scale):
    x = rows(scale)
    expected = PUBLISHED[alpha](x)
    weights, tau = reference.entmax(x, torch.ones_like(x, dtype=torch.bool), alpha)
    torch.testing.assert_close(weights, expected, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)
    closed = ((alpha - 1) * x - tau[:, None]).clamp(min=0) ** (1 / (alpha - 1))
    torch.testing.assert_close(weights, closed, rtol=1e-9, atol=1e-10)

    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours = torch.autograd.grad(weights, x, grad)
    theirs = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.5, 2])
def test_sorting_and_bisection_agree(alpha):
    x = rows(2, length=300).detach().clamp(min=-2)
    x = (alpha - 1) * (x - x.amax(-1, keepdim=True))
    beta = 1 / (alpha - 1)
    torch.testing.assert_close(normalizers._SOLVERS[alpha](x, beta), normalizers._bisect(x, beta), rtol=0, atol=1e-12)


def test_entmax_keeps_its_row_sum_at_large_scores():
    x = 1e8 + rows(1).detach()
    for alpha in PUBLISHED:
        weights, _ = reference.entmax(x, torch.ones_like(x, dtype=torch.bool), alpha)
        torch.testing.assert_close(weights.sum(-1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-10)


def test_entmax_ignores_masked_scores():
    x = rows(1)
    kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    for alpha in PUBLISHED:
        weights, tau = reference.entmax(x.masked_fill(~kept, torch.nan), kept, alpha)
        assert (weights[~kept] == 0).all()
        for row in range(len(x)):
            alone, alone_tau = reference.entmax(x[row][kept[row]], kept[row][kept[row]], alpha)
            torch.testing.assert_close(weights[row][kept[row]], alone)
            torch.testing.assert_close(tau[row], alone_tau)


@pytest.mark.parametrize("alpha", [1, 1.25, 1.5, 1.75])
def test_gradients_are_derivatives(alpha):
    def outputs(q, k, v):
        out, statistic = reference_attention(q, k, v, "causal", alpha, q_start=-1)
        return out, statistic.masked_fill(statistic.isinf(), 0)  # row -1 has no key

    assert gradcheck(outputs, inputs(Nq=5, Nk=6, heads=2, kv_heads=1, dim=3))


def test_sparsemax_gradients_are_derivatives():
    # Entries close to the edge of the support would not do: the gradient jumps there.
    x = torch.tensor([[0.3, 0.1, -2.0, 0.2], [3.0, 0.0, -1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: reference.entmax(x, torch.ones_like(x, dtype=torch.bool), 2), x)


@pytest.mark.parametrize("name", MASK_MODS)
def test_softmax_is_sdpa(name):
    pattern, keeps = MASK_MODS[name]
    q, k, v = inputs()
    i, j = torch.arange(40)[:, None] + 16, torch.arange(56)
    ours, _ = reference_attention(q, k, v, pattern)
    theirs = scaled_dot_product_attention(q, k, v, attn_mask=keeps(i, j), enable_gqa=True)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn(ours.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(ours, (q, k, v), grad), torch.autograd.grad(theirs, (q, k, v), grad))


@pytest.mark.parametrize("q_start,k_start", [(16, 0), (5, 0), (-3, 2), (100, 90)])
@pytest.mark.parametrize("name", MASK_MODS)
def test_softmax_is_flex_attention(name, q_start, k_start):
    pattern, keeps = MASK_MODS[name]
    q, k, v = (t.detach() for t in inputs(dtype=torch.float32))

    def mask_mod(batch, head, row, column):
        return keeps(row + q_start, column + k_start)

    block_mask = create_block_mask(mask_mod, None, None, 40, 56, device="cpu")
    aux = AuxRequest(lse=True)
    theirs, aux = flex_attention(q, k, v, block_mask=block_mask, enable_gqa=True, return_aux=aux)
    ours, statistic = reference_attention(q, k, v, pattern, q_start=q_start, k_start=k_start)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistic.float(), aux.lse, rtol=1e-4, atol=1e-5)


def test_block_mask_is_flex_attention():
    q, k, v = (t.detach() for t in inputs(dtype=torch.float32))
    mask = torch.rand(2, 4, 3, 2, generator=torch.Generator().manual_seed(5)) < 0.6

    def mask_mod(batch, head, row, column):
        return mask[batch, head, row // 16, column // 32] & (column <= row + 16)

    theirs = flex_attention(
        q, k, v, block_mask=create_block_mask(mask_mod, 2, 4, 40, 56, device="cpu"), enable_gqa=True
    )
    ours, _ = reference_attention(q, k, v, sa.BlockMask(mask, (16, 32)) & sa.Causal())
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [1, 1.5, 1.3])
def test_lengths_are_separate_problems(alpha):
    q, k, v = inputs(Nq=48, Nk=48)
    lengths = (29, 0)
    out, statistic = reference_attention(q, k, v, "causal", alpha, lengths=torch.tensor(lengths))
    for b, n in enumerate(lengths):
        alone = reference_attention(q[b : b + 1, :, :n], k[b : b + 1, :, :n], v[b : b + 1, :, :n], "causal", alpha)
        torch.testing.assert_close((out[b, :, :n], statistic[b, :, :n]), (alone[0][0], alone[1][0]))
        assert (out[b, :, n:] == 0).all()
        assert (statistic[b, :, n:] == (-torch.inf if alpha == 1 else torch.inf)).all()
    (grad,) = torch.autograd.grad(out.sum(), k)
    assert (grad[0, :, 29:] == 0).all() and (grad[1] == 0).all()


@pytest.mark.parametrize("alpha", [1, 1.5])
def test_kv_lengths_are_shorter_caches(alpha):
    q, k, v = inputs(Nq=3)
    held = (56, 20)
    window = sa.SlidingWindow.causal(9)
    out, statistic = reference_attention(q, k, v, window, alpha, kv_lengths=torch.tensor(held))
    for b, n in enumerate(held):
        alone = reference_attention(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n], window, alpha)
        torch.testing.assert_close((out[b], statistic[b]), (alone[0][0], alone[1][0]))


@pytest.mark.parametrize("alpha", [1, 1.5, 1.3, 2])
def test_nothing_leaks_from_what_takes_no_part(alpha):
    clean = inputs(Nq=48, Nk=48)
    poisoned = [t.detach().clone() for t in clean]
    for t in poisoned:
        t[:, :, 30:] = torch.nan
    poisoned = [t.requires_grad_() for t in poisoned]
    grad = torch.randn(clean[0].shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    results = []
    for tensors, tail in ((clean, 0.0), (poisoned, torch.nan)):
        out, _ = reference_attention(*tensors, sa.SlidingWindow(5, 2), alpha, lengths=torch.tensor([30, 30]))
        grad[:, :, 30:] = tail
        results.append((out, *torch.autograd.grad(out, tensors, grad)))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("alpha", [1, 1.5, 1.3, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_same_mathematics_in_the_precision_of_the_inputs(dtype, alpha):
    q, k, v = inputs(dtype=dtype)
    exact, statistic = reference_attention(q, k, v, "causal", alpha)
    rounded, rounded_statistic = reference_attention(q, k, v, "causal", alpha, dtype=None)
    assert rounded.dtype is dtype and rounded_statistic.dtype is torch.float32 and exact.dtype is torch.float64
    error = (exact - rounded).abs().max().item()
    assert 0 < error < 40 * torch.finfo(dtype).eps
    assert (statistic - rounded_statistic).abs().max() < 40 * torch.finfo(dtype).eps


def test_unknown_patterns_are_refused():
    class Other(sa.Pattern):
        pass

    with pytest.raises(TypeError, match="no formula for Other"):
        reference_attention(*inputs(), Other())
