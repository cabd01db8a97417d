"""Gradients: numerical differentiation in float64, determinism, and parts merged to the whole."""

import itertools

import pytest
import torch
from cases import PATTERNS, RULES, Case, Shape
from pool import threads

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")

NORMALIZERS = {"softmax": 1, "entmax1.5": 1.5, "entmax1.3": 1.3, "sparsemax": 2.0, **{name: name for name in RULES}}
CLOSED = {
    name: sa.Softmax() if alpha == 1 else sa.Entmax(alpha) for name, alpha in NORMALIZERS.items() if alpha != name
}


def problem(name, alpha, shape, dtype=torch.float64, **fields):
    """Pattern, options and inputs: q, k, v and the normalizer's parameters."""
    case = Case(name, PATTERNS[name], alpha, dtype, shape, **fields)
    q, k, v, _ = case.inputs("cpu", seed=5)
    inputs = [t.requires_grad_() for t in (q, k, v, *case.parameters())]
    return case, case.full_pattern("cpu"), case.options("cpu"), inputs


@pytest.mark.parametrize("statistic", [False, True], ids=["out", "out+statistic"])
@pytest.mark.parametrize("name, normalizer", list(itertools.product(PATTERNS, NORMALIZERS)))
def test_gradcheck(name, normalizer, statistic):
    """Against finite differences, with the gradient of log-sum-exp and tau, on rows that keep at least one key."""
    shape = Shape(1, 2, 1, 17, 70, 3) if "block" in name else Shape(1, 2, 1, 17, 35, 5)
    case, pattern, options, inputs = problem(name, NORMALIZERS[normalizer], shape)

    def function(q, k, v, *parameters):
        normalizer = case.normalizer_of(parameters)
        out, row = sa.attention(q, k, v, pattern, normalizer, return_statistic=True, **options)
        return (out, row.masked_fill(row.isinf(), 0)) if statistic else out

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize(
    "fields",
    [
        {"lengths": (9, 0)},
        {"kv_lengths": (20, 3)},
        {"q_start": -4, "k_start": 3},
        {"q_start": 5, "k_start": -8},
        {"scale": -0.7},
        {"layout": "bnhd"},
    ],
    ids=lambda fields: "-".join(f"{name}{value}" for name, value in fields.items()),
)
def test_gradcheck_options(normalizer, fields):
    keys = 17 if "lengths" in fields else 35
    case, pattern, options, inputs = problem("causal", NORMALIZERS[normalizer], Shape(2, 4, 2, 17, keys, 5), **fields)

    def function(q, k, v, *parameters):
        return sa.attention(q, k, v, pattern, case.normalizer_of(parameters), **options)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("normalizer", ["softmax", "entmax1.5"])
def test_only_the_wanted_gradients(normalizer):
    """Any subset of q, k, v may need a gradient, and each is the one of the full set."""
    _, pattern, _, inputs = problem("causal", 1, Shape(1, 2, 1, 40, 40, 8))
    full = torch.autograd.grad(sa.attention(*inputs, pattern, CLOSED[normalizer]).square().sum(), inputs)
    for wanted in range(3):
        tensors = [t if n == wanted else t.detach() for n, t in enumerate(inputs)]
        (grad,) = torch.autograd.grad(
            sa.attention(*tensors, pattern, CLOSED[normalizer]).square().sum(), tensors[wanted]
        )
        torch.testing.assert_close(grad, full[wanted])


@pytest.mark.parametrize("normalizer", ["softmax", "entmax1.5"])
def test_deterministic(normalizer):
    """With deterministic=True runs on as many threads give the same bits, whichever thread takes a tile."""
    _, pattern, _, inputs = problem("blocks64&causal", 1, Shape(2, 4, 1, 300, 300, 64), torch.float32)

    def run(count):
        with threads(count):
            out = sa.attention(*inputs, pattern, CLOSED[normalizer], deterministic=True)
            return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    for count in (1, 2, 5):
        first = run(count)
        for a, b in zip(first + first, run(count) + run(count), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["full", "causal", "window37"])
def test_merge_of_halves_is_the_whole(name):
    """Softmax over two halves of the keys, merged by log-sum-exp, is softmax over all of them, with its gradients."""
    _, pattern, _, inputs = problem(name, 1, Shape(1, 4, 2, 60, 90, 16))
    q, k, v = inputs
    start = 30

    def half(begin, end):
        return sa.attention(
            q, k[:, :, begin:end], v[:, :, begin:end], pattern, q_start=start, k_start=begin, return_statistic=True
        )

    whole, lse = sa.attention(q, k, v, pattern, q_start=start, return_statistic=True)
    merged, merged_lse = sa.merge(*half(0, 41), *half(41, 90))
    torch.testing.assert_close(merged, whole)
    torch.testing.assert_close(merged_lse, lse)
    grad = torch.randn(whole.shape, dtype=whole.dtype, generator=torch.Generator().manual_seed(0))
    want = torch.autograd.grad((whole, lse), inputs, (grad, lse.detach()))
    got = torch.autograd.grad((merged, merged_lse), inputs, (grad, lse.detach()))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
