"""Derivatives in every way that Torch takes them: right, or an exception that says what is not supported."""

import pytest
import torch
from torch.autograd import forward_ad, functional
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils.checkpoint import checkpoint

import splash_attention as sa
from splash_attention.compat.adasplash import adasplash, lazy_attention_triton, triton_entmax15
from splash_attention.modules import FlashAttention, LazyAttention, SplashAttention, StandardAttention
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

DOUBLE = torch.float64
B, H, HKV, N, D = 2, 2, 1, 9, 4


def draw(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


Q, K, V = draw(B, H, N, D), draw(B, HKV, N, D, seed=1), draw(B, HKV, N, D, seed=2)
KEPT = torch.rand(1, 1, N, N, generator=torch.Generator().manual_seed(3)) < 0.7
TAU, BIAS, SINK = -draw(H, seed=4).abs(), draw(H, 5, seed=5), draw(H, seed=6)
ENDS = torch.tensor([0, 4, 4, N], dtype=torch.int32)
ROWS = draw(3, 7, 5, seed=7)


def both(pattern, normalizer, argument):
    """attention() and the reference as functions of one of q, k and v; the statistic counts, too."""

    def function(attend):
        def of(tensor):
            tensors = {"q": Q, "k": K, "v": V, argument: tensor}
            out, row = attend(tensors["q"], tensors["k"], tensors["v"], pattern, normalizer)
            return torch.cat([out, row.masked_fill(row.isinf(), 0)[..., None]], -1)

        return of

    def attend(*arguments):
        return sa.attention(*arguments, return_statistic=True)

    return function(attend), function(reference_attention), {"q": Q, "k": K, "v": V}[argument]


def learned(make, parameter):
    """attention() and the reference as functions of a parameter of a normalizer."""

    def of(attend):
        return lambda tensor: attend(Q, K, V, "causal", make(tensor))

    return of(sa.attention), lambda tensor: of(reference_attention)(tensor)[0], parameter


def packed(k):
    q, k, v = (t[0].transpose(0, 1) for t in (Q, k, V))
    return sa.attention_varlen(q, k, v, ENDS, ENDS, 5, 5, "causal", 1.5)


def one_by_one(k):
    parts = []
    for begin, end in zip(ENDS[:-1].tolist(), ENDS[1:].tolist(), strict=True):
        q, keys, v = (t[:1, :, begin:end] for t in (Q, k, V))
        parts.append(reference_attention(q, keys, v, "causal", 1.5)[0][0].transpose(0, 1))
    return torch.cat(parts)


def dilated(q):
    return sa.longnet_attention(q, K, V, ((4, 1), (6, 2)))


def module(make):
    """A module as a function of its input, and the same once more for plain backward."""
    torch.manual_seed(0)
    built = make()

    def call(x):
        return functional_call(built, dict(built.named_parameters()), (x, K, V) if x.dim() == 4 else (x,))

    return call, call, Q if not list(built.parameters()) else draw(B, N, 8)


def halves(k):
    parts = (slice(0, 5), slice(5, N))
    return sa.merge(*(t for s in parts for t in dense_part(k[:, :, s], V[:, :, s])))[0]


def dense_part(k, v):
    scores = Q.unflatten(1, (HKV, -1)) @ k[:, :, None].transpose(-1, -2) * D**-0.5
    return (scores.softmax(-1) @ v[:, :, None]).flatten(1, 2), scores.logsumexp(-1).flatten(1, 2)


KERNELS = {
    "softmax": both(sa.Causal(), 1, "q"),
    "window": both(sa.SlidingWindow(3, 1), 1.5, "k"),
    "blocks": both(sa.BlockMask(torch.tensor([[True]]), 16) & sa.Causal(), 1.3, "q"),
    "elements": both(sa.ElementMask(KEPT), 2.0, "v"),
    "BigBird": both(sa.BigBird(16), 1, "k"),
    "top_k": both(sa.Causal(), sa.TopK(3, 1.5), "q"),
    "elastic": both(sa.Causal(), sa.Elastic(TAU, BIAS), "k"),
    "sink_logit": learned(sa.Softmax, SINK),
    "tau": learned(lambda tau: sa.Elastic(tau, BIAS), TAU),
    "bias": learned(lambda bias: sa.Elastic(TAU, bias), BIAS),
    "packed": (packed, one_by_one, K),
    "longnet": (dilated, dilated, Q),
    "SplashAttention": module(lambda: SplashAttention(D, k_keep=3)),
    "FlashAttention": module(FlashAttention),
    "LazyAttention": module(lambda: LazyAttention(8, 2, 4, dtype=DOUBLE)),
    "adasplash": (lambda q: adasplash(q, K, V), lambda q: reference_attention(q, K, V, "causal", 1.5)[0], Q),
    "lazy_attention_triton": (
        lambda q: lazy_attention_triton(q, K, V, BIAS, TAU, 5),
        lambda q: reference_attention(q, K, V, "causal", sa.Elastic(TAU, BIAS))[0],
        Q,
    ),
}
"""name: (function, what plain backward is compared with, input), of those whose derivatives are kernels."""


def rows(alpha, dim):
    return lambda x: sa.entmax(x, alpha, dim)


def rows_of_reference(alpha, dim):
    """The Jacobian of entmax in Torch's own operations: the support is constant."""

    def of(x):
        p = sa.entmax(x.detach(), alpha, dim)
        kept = p > 0
        z = (alpha - 1) * x
        tau = torch.where(kept, z.detach() - p ** (alpha - 1), 0).sum(dim, keepdim=True) / kept.sum(dim, keepdim=True)
        for _ in range(4):  # Newton's steps, each of which doubles the order to which derivatives are right
            base = torch.where(kept, z - tau, 1)
            mass = torch.where(kept, base ** (1 / (alpha - 1)), 0).sum(dim, keepdim=True)
            slope = torch.where(kept, base ** (1 / (alpha - 1) - 1), 0).sum(dim, keepdim=True) / (alpha - 1)
            tau = tau + (mass - 1) / slope
        return torch.where(kept, torch.where(kept, z - tau, 1) ** (1 / (alpha - 1)), 0)

    return of


COMPOSED = {
    "entmax15": (sa.entmax15, rows_of_reference(1.5, -1), ROWS),
    "triton_entmax15": (triton_entmax15, rows_of_reference(1.5, -1), ROWS),
    "entmax columns": (rows(1.3, 1), rows_of_reference(1.3, 1), ROWS),
    "sparsemax": (lambda x: sa.sparsemax(x.sin(), 0), lambda x: rows_of_reference(2.0, 0)(x.sin()), ROWS),
    "merge": (halves, lambda k: dense_part(k, V)[0], K),
    "StandardAttention": (lambda k: StandardAttention()(Q, k, V), lambda k: dense_part(k, V)[0], K),
}
"""Those that can be differentiated any number of times, in every mode."""

EVERY = {**KERNELS, **COMPOSED}


def plain(function, x, weight):
    """weight^T J by plain backward."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, weight)[0]


def by_hooks(f, x, w):
    with torch.autograd.graph.save_on_cpu():
        return plain(f, x, w)


def captured(f, x, w):
    """A parameter that vjp does not know of: its value and its pull-back lead to it."""
    p = x.detach().requires_grad_()
    one = torch.ones((), dtype=x.dtype)
    value, pull = vjp(lambda s: f(p) * s, one)
    (of_value,) = torch.autograd.grad(value, p, w, retain_graph=True)
    (of_pull,) = torch.autograd.grad(pull(w)[0], p)
    torch.testing.assert_close(of_value, of_pull)
    return of_value


def batched(f, x, w):
    x = x.detach().requires_grad_()
    first, second = torch.autograd.grad(f(x), x, torch.stack([w, -2 * w]), is_grads_batched=True)[0]
    torch.testing.assert_close(second, -2 * first)
    return first


def contract(w, jacobian):
    return torch.tensordot(w, jacobian, w.dim())


def mapped(transform, f, x, w):
    """Entry 0 of vmap(transform), whose other entries are something else."""
    return vmap(lambda t: transform(f, t, w))(torch.stack([x, 0.5 * x, x.flip(0)]))[0]


def by_grad(f, x, w):
    return grad(lambda t: (f(t) * w).sum())(x)


def by_jacrev(f, x, w):
    return contract(w, jacrev(f)(x))


def without_grad(f, x, w):
    with torch.no_grad():
        return by_grad(f, x, w)


def nested(f, x, w):
    """The value of an inner transform has the derivatives of the outer one."""
    one = torch.ones((), dtype=x.dtype)
    of_value = grad(lambda t: grad_and_value(lambda s: s * (f(t) * w).sum())(one)[1])(x)
    of_gradient = grad(lambda t: grad_and_value(lambda s: s * (f(t) * w).sum())(one)[0])(x)
    torch.testing.assert_close(of_value, of_gradient)
    return of_value


FIRST = {
    "backward": plain,
    "grad": by_grad,
    "grad_and_value": lambda f, x, w: grad_and_value(lambda t: (f(t) * w).sum())(x)[0],
    "nested": nested,
    "vjp": lambda f, x, w: vjp(f, x)[1](w)[0],
    "captured": captured,
    "jacrev": by_jacrev,
    "jacrev in chunks": lambda f, x, w: contract(w, jacrev(f, chunk_size=50)(x)),
    "no_grad": without_grad,
    "create_graph": lambda f, x, w: torch.autograd.grad(f(p := x.clone().requires_grad_()), p, w, create_graph=True)[0],
    "is_grads_batched": batched,
    "functional.vjp": lambda f, x, w: functional.vjp(f, x, w)[1],
    "jacobian": lambda f, x, w: contract(w, functional.jacobian(f, x, vectorize=True)),
    "vmap of grad": lambda f, x, w: mapped(by_grad, f, x, w),
    "vmap of jacrev": lambda f, x, w: mapped(by_jacrev, f, x, w),
    "vmap of vmap of grad": lambda f, x, w: vmap(lambda t: mapped(by_grad, f, t, w))(torch.stack([x, x]))[1],
    "grad of vmap": lambda f, x, w: grad(lambda t: (vmap(f)(torch.stack([t, 2 * t.detach()]))[0] * w).sum())(x),
    "checkpoint": lambda f, x, w: plain(lambda t: checkpoint(f, t, use_reentrant=False), x, w),
    "hooks": by_hooks,
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("transform", FIRST)
def test_first_derivatives(name, transform):
    function, reference, x = EVERY[name]
    weight = draw(*function(x).shape, seed=9)
    torch.testing.assert_close(FIRST[transform](function, x, weight), plain(reference, x, weight))


def dual(f, x, t):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, t))).tangent


FORWARD = {
    "jvp": lambda f, x, t: jvp(f, (x,), (t,))[1],
    "jacfwd": lambda f, x, t: torch.tensordot(jacfwd(f)(x), t, x.dim()),
    "dual": dual,
    "dual without grad": lambda f, x, t: torch.no_grad()(dual)(f, x, t),
    "vmap of jvp": lambda f, x, t: vmap(lambda s: jvp(f, (x,), (s,))[1])(torch.stack([t, t]))[1],
    "jvp of vmap": lambda f, x, t: jvp(vmap(f), (torch.stack([x, x]),), (torch.stack([t, t]),))[1][1],
    "jvp of value": lambda f, x, t: jvp(lambda s: vjp(f, s)[0], (x,), (t,))[1],
    "functional.jvp": lambda f, x, t: functional.jvp(f, x, t)[1],
}


def test_linearize():
    for name in ("softmax", "elements", "longnet"):
        function, _, x = KERNELS[name]
        with pytest.raises(sa.NoKernelError, match="forward-mode"):
            linearize(function, x)
    for function, reference, x in COMPOSED.values():
        tangent = draw(*x.shape, seed=8)
        want = torch.tensordot(functional.jacobian(reference, x), tangent, x.dim())
        torch.testing.assert_close(linearize(function, x)[1](tangent), want)


def scalar(f):
    return lambda x: f(x).sin().sum()


def batched_second(f, x, t):
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(scalar(f)(x), x, create_graph=True)
    return torch.autograd.grad(first, x, torch.stack([t, t]), is_grads_batched=True)[0][1]


def again(f, x, t):
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(scalar(f)(x), x, create_graph=True)
    return torch.autograd.grad(first, x, t)[0]


SECOND = {
    "create_graph": again,
    "is_grads_batched": batched_second,
    "hessian": lambda f, x, t: torch.tensordot(hessian(scalar(f))(x), t, x.dim()),
    "jacrev of jacrev": lambda f, x, t: torch.tensordot(jacrev(jacrev(scalar(f)))(x), t, x.dim()),
    "grad of grad": lambda f, x, t: grad(lambda s: (grad(scalar(f))(s) * t).sum())(x),
    "grad of vmap of grad": lambda f, x, t: grad(lambda s: (vmap(grad(scalar(f)))(s[None])[0] * t).sum())(x),
    "jvp of grad": lambda f, x, t: jvp(grad(scalar(f)), (x,), (t,))[1],
    "grad of jvp": lambda f, x, t: grad(lambda s: jvp(scalar(f), (s,), (t,))[1])(x),
    "jacfwd of jacfwd": lambda f, x, t: torch.tensordot(jacfwd(jacfwd(scalar(f)))(x), t, x.dim()),
    "functional.hvp": lambda f, x, t: functional.hvp(scalar(f), x, t)[1],
    "functional.hessian": lambda f, x, t: torch.tensordot(functional.hessian(scalar(f), x, vectorize=True), t, x.dim()),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("transform", [*FORWARD, *SECOND])
def test_what_has_no_kernel_is_refused(name, transform):
    function, _, x = KERNELS[name]
    with pytest.raises(sa.NoKernelError, match=r"second derivatives|forward-mode"):
        {**FORWARD, **SECOND}[transform](function, x, draw(*x.shape, seed=8))


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("transform", FORWARD)
def test_forward_mode(name, transform):
    function, reference, x = COMPOSED[name]
    tangent = draw(*x.shape, seed=8)
    want = torch.tensordot(functional.jacobian(reference, x), tangent, x.dim())
    torch.testing.assert_close(FORWARD[transform](function, x, tangent), want)


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("transform", SECOND)
def test_second_derivatives(name, transform):
    function, reference, x = COMPOSED[name]
    x = x[:1, :, :5] if x.dim() == 3 else x
    tangent = draw(*x.shape, seed=8)
    torch.testing.assert_close(SECOND[transform](function, x, tangent), again(reference, x, tangent))


@pytest.mark.parametrize("alpha", (1.01, 1.3, 1.5, 1.75, 2.0))
@pytest.mark.parametrize("dim", (0, 1))
def test_rows_against_differences(alpha, dim):
    x = draw(4, 6, seed=3).requires_grad_()
    options = {"check_batched_grad": True}
    forward = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(rows(alpha, dim), x, **options, **forward)
    assert torch.autograd.gradgradcheck(rows(alpha, dim), x, **options, check_fwd_over_rev=True)


def test_third_derivative_of_rows():
    x = draw(6, seed=3)
    third = jacrev(hessian(lambda t: sa.entmax(t, 1.3)[0]))(x)
    want = jacrev(jacrev(jacrev(lambda t: rows_of_reference(1.3, -1)(t)[0])))(x)
    torch.testing.assert_close(third, want)


def test_merge_of_empty_rows():
    """-inf in one part or both: derivatives of every order and mode are numbers."""
    o1, o2 = draw(4, 3), draw(4, 3, seed=1)
    one = torch.tensor([0.5, -torch.inf, 1.0, -torch.inf], dtype=DOUBLE)
    other = torch.tensor([0.2, 0.3, -torch.inf, -torch.inf], dtype=DOUBLE)

    def loss(o1, one, o2, other):
        out, lse = sa.merge(o1, one, o2, other)
        return out.square().sum() + lse.masked_fill(lse.isinf(), 0).square().sum()

    arguments = o1, one, o2, other
    for derivative in (grad, jacfwd, hessian):
        for part in torch.utils._pytree.tree_leaves(derivative(loss, (0, 1, 2, 3))(*arguments)):
            assert part.isfinite().all()
    assert not any(g[3].any() for g in grad(loss, (0, 1, 2, 3))(*arguments))
    finite = [t[:1].clone().requires_grad_() for t in arguments]
    assert torch.autograd.gradgradcheck(sa.merge, finite, check_fwd_over_rev=True)


def test_parameters_of_a_module():
    """functional_call with several transforms over the parameters: the gradients of plain backward."""
    torch.manual_seed(0)
    layer, x, weight = LazyAttention(8, 2, 4), draw(B, N, 8, dtype=torch.float32), draw(B, N, 8, dtype=torch.float32)
    torch.nn.init.normal_(layer.attention_biases)
    torch.nn.init.constant_(layer.tau, -0.3)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return (functional_call(layer, parameters, (x,)) * weight).sum()

    want = dict(zip(parameters, torch.autograd.grad((layer(x) * weight).sum(), layer.parameters()), strict=True))
    one = torch.ones(())
    for got in (
        grad_and_value(loss)(parameters, x)[0],
        vjp(loss, parameters, x)[1](one)[0],
        vmap(grad(loss), (None, 0))(parameters, torch.stack([x, 2 * x])),
        grad(lambda p: vmap(loss, (None, 0))(p, torch.stack([x, 2 * x]))[0])(parameters),
        grad(lambda p: grad_and_value(lambda s: s * loss(p, x))(one)[1])(parameters),
    ):
        for name, value in want.items():
            first = got[name][0] if got[name].dim() > value.dim() else got[name]
            torch.testing.assert_close(first, value, rtol=1e-4, atol=1e-5)
    for transform in (hessian, jacfwd):
        with pytest.raises(sa.NoKernelError):
            transform(loss)(parameters, x)


@pytest.mark.parametrize("name", ["softmax", "blocks", "longnet", "entmax15", "merge"])
def test_compiled_transforms(name):
    function, reference, x = EVERY[name]
    weight = draw(*function(x).shape, seed=9)
    want = plain(reference, x, weight)
    for transform in (by_grad, by_jacrev):
        torch._dynamo.reset()
        compiled = torch.compile(lambda t, run=transform: run(function, t, weight), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), want)
    torch._dynamo.reset()
    inner = torch.compile(function, backend="aot_eager")
    torch.testing.assert_close(by_grad(inner, x, weight), want)
    torch.testing.assert_close(batched(inner, x, weight), want)


@pytest.mark.parametrize("way", ["jvp", "dual"])
def test_forward_mode_in_a_compiled_graph(way):
    """Traced code enters its levels of forward mode behind Python's back."""
    x, tangent = draw(3, 6), draw(3, 6, seed=1)

    def rows(t):
        return FORWARD[way](lambda s: s.cos() + sa.entmax15(s), t, tangent)

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(rows, backend="aot_eager")(x), rows(x))

    def attend(t):
        return FORWARD[way](lambda s: s.cos() + sa.attention(s, s, s), t, Q)

    with pytest.raises(Exception, match="forward-mode"):
        torch.compile(attend, backend="aot_eager")(Q)


def test_batched_gradients_of_both_results():
    """is_grads_batched with a gradient of the output, of the statistic, of both, and none of either."""
    q = Q.clone().requires_grad_()
    out, row = sa.attention(q, K, V, "causal", return_statistic=True)
    w, s = draw(3, *out.shape), draw(3, *row.shape, seed=1)
    for outputs, weights in (((out,), (w,)), ((row,), (s,)), ((out, row), (w, s))):
        got = torch.autograd.grad(outputs, q, weights, is_grads_batched=True, retain_graph=True)[0]
        for n in range(3):
            want = torch.autograd.grad(outputs, q, [t[n] for t in weights], retain_graph=True)[0]
            torch.testing.assert_close(got[n], want)


@pytest.mark.parametrize("normalizer", [1, 1.5])
def test_gradcheck_of_batched_gradients(normalizer):
    inputs = [t[:1, :, :4].clone().requires_grad_() for t in (Q, K, V)]

    def function(*tensors):
        return sa.attention(*tensors, "causal", normalizer, return_statistic=True)

    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True)


@pytest.mark.parametrize("alpha", [1, 1.5, 1.3])
def test_second_derivatives_of_the_reference(alpha):
    inputs = [t[:1, :, :5].clone().requires_grad_() for t in (Q, K, V)]
    assert torch.autograd.gradgradcheck(lambda *t: reference_attention(*t, "causal", alpha), inputs)


@pytest.mark.parametrize("inner", [torch.no_grad, torch.inference_mode])
def test_no_gradient_inside_a_transform(inner):
    """What a function computes without gradients is a constant, at every level."""

    def loss(q):
        with inner():
            out = sa.attention(q, K, V)
        return (out.clone() * q).sum()

    one = torch.ones((), dtype=DOUBLE)
    torch.testing.assert_close(grad(loss)(Q), sa.attention(Q, K, V))
    torch.testing.assert_close(grad(lambda q: grad_and_value(lambda s: s * loss(q))(one)[1])(Q), sa.attention(Q, K, V))
