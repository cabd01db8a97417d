"""A normalizer against the reference on small problems, with the gradients of what it has learned."""

import torch

import splash_attention as sa
from splash_attention.reference import reference_attention

HEADS, KV_HEADS = 4, 2
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# Of the largest entry. Elements of 16-bit inputs are exact numbers here, so only results and, in the gradients, the
# outputs that delta is formed of are rounded.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def draw(*shape, seed=0, dtype=torch.float64, factor=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (factor * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def integers(*shape, seed=0, dtype=torch.float64, most=2):
    """Small whole numbers: their products are exact in every dtype, with many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator).to(dtype)


def qkv(queries, keys, dim=16, batch=2, dtype=torch.float64, make=draw):
    return [
        make(batch, HEADS, queries, dim, seed=1, dtype=dtype),
        make(batch, KV_HEADS, keys, dim, seed=2, dtype=dtype),
        draw(batch, KV_HEADS, keys, dim, seed=3, dtype=dtype),
    ]


def run(function, inputs, seed=4, dtype=None):
    """[out, statistic, *gradients] of function(*inputs), from gradients of both of its results."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    out, statistic = function(*inputs)
    grads = draw(*out.shape, seed=seed), draw(*statistic.shape, seed=seed + 1)
    grads = [g.to(dtype or out.dtype).to(t.dtype) for g, t in zip(grads, (out, statistic), strict=True)]
    return [
        out.detach(),
        statistic.detach(),
        *torch.autograd.grad((out, statistic), inputs, grads, materialize_grads=True),
    ]


def assert_same(got, want, tolerance):
    for n, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.shape == b.shape
        assert torch.equal(a.isinf(), b.isinf()) and not a.isnan().any()
        a, b = (t.double().masked_fill(t.isinf(), 0) for t in (a, b))
        largest = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        assert (a - b).abs().amax().item() <= tolerance * largest if a.numel() else True, f"result {n}"


def compare(make, inputs, parameters, pattern, tolerance=None, **options):
    """attention() against the reference, with gradients into inputs and parameters; what attention() gave."""
    dtype = inputs[0].dtype

    def splash(q, k, v, *parameters):
        return sa.attention(q, k, v, pattern, make(*parameters), return_statistic=True, **options)

    def exact(q, k, v, *parameters):
        return reference_attention(q, k, v, pattern, make(*parameters), **options)

    got = run(splash, [*inputs, *parameters], dtype=dtype)
    want = run(exact, [t.double() for t in (*inputs, *parameters)], dtype=dtype)
    assert_same(got, want, TOLERANCE[dtype] if tolerance is None else tolerance)
    return got


def real(dtype):
    return torch.float64 if dtype is torch.float64 else torch.float32


def gradcheck(make, inputs, parameters, pattern, **options):
    def function(q, k, v, *parameters):
        out, statistic = sa.attention(q, k, v, pattern, make(*parameters), return_statistic=True, **options)
        return out, statistic.masked_fill(statistic.isinf(), 0)

    return torch.autograd.gradcheck(function, [t.detach().clone().requires_grad_() for t in (*inputs, *parameters)])
