"""What is particular to each normalizer: sinks of any size, elastic softmax by position, and exact top-k selection.

Every normalizer under every pattern is in test_attention.py and test_gradients.py.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import splash_attention as sa
from splash_attention.normalizers import SAVED
from splash_attention.reference import reference_attention
from splash_attention.reference.normalizers import top_k

pytestmark = pytest.mark.usefixtures("one_thread")

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


class TestSink:
    @pytest.mark.parametrize("pattern", ["full", "causal", sa.SlidingWindow(20, 7)], ids=str)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_reference(self, dtype, pattern):
        sink = draw(HEADS, seed=5, dtype=real(dtype), factor=3)
        compare(sa.Softmax, qkv(75, 130, dtype=dtype), [sink], pattern)

    @pytest.mark.parametrize("sink", [-1e30, -1e4, -300.0, -40.0, 0.0, 5.0, 40.0, 88.0, 300.0, 1e4, 1e30])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_sinks_of_any_size(self, dtype, sink):
        """Gradients stay right where a sink takes everything or nothing, which the statistic does not notice."""
        sinks = torch.full((HEADS,), sink, dtype=real(dtype))
        got = compare(sa.Softmax, qkv(40, 60, dtype=dtype), [sinks], "causal")
        assert all(t.isfinite().all() for t in got)
        if sink > 200:
            assert (got[0].abs() < 1e-30).all() and got[2].abs().max() > 1e-3

    @pytest.mark.parametrize("magnitude", [30.0, 1e3, 1e5])
    def test_scores_of_any_size(self, magnitude):
        """The share of the sink is sigmoid(sink - lse), at both ends of the scale."""
        q, k, _ = qkv(40, 60)
        for sign in (1, -1):
            sinks = sign * magnitude + draw(HEADS, seed=6)
            v = torch.ones_like(k)
            arguments = q, k, v, "causal", sa.Softmax(sinks)
            out, lse = sa.attention(*arguments, scale=magnitude / 8, return_statistic=True)
            want = torch.sigmoid(lse - sinks[:, None])[..., None].expand_as(out)
            torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("sink", [-torch.inf, -1e30])
    def test_no_sink_is_softmax(self, sink):
        inputs = [t.requires_grad_() for t in qkv(33, 70, dtype=torch.float32)]
        plain, lse = sa.attention(*inputs, "causal", return_statistic=True)
        out, statistic = sa.attention(*inputs, "causal", sa.Softmax(torch.full((HEADS,), sink)), return_statistic=True)
        torch.testing.assert_close((out, statistic), (plain, lse))
        gradients = [torch.autograd.grad(result.sum(), inputs) for result in (out, plain)]
        torch.testing.assert_close(*gradients)

    def test_a_sink_is_a_key_of_value_zero(self):
        """As SDPA with one more key: score 0 plus the sink as a mask, value 0."""
        q, k, v = (t.requires_grad_() for t in qkv(30, 44))
        sink = draw(HEADS, seed=7).requires_grad_()
        mask = torch.zeros(30, 44, dtype=q.dtype).masked_fill(~sa.Causal().to_dense(30, 44)[0, 0], -torch.inf)
        mask = torch.cat((mask.expand(HEADS, 30, 44), sink[:, None, None].expand(HEADS, 30, 1)), -1)
        longer = [torch.nn.functional.pad(t, (0, 0, 0, 1)) for t in (k, v)]
        want = scaled_dot_product_attention(q, *longer, attn_mask=mask, enable_gqa=True)
        out = sa.attention(q, k, v, "causal", sa.Softmax(sink))
        torch.testing.assert_close(out, want)
        grad = draw(*out.shape, seed=8)
        torch.testing.assert_close(
            torch.autograd.grad(out, (q, k, v, sink), grad), torch.autograd.grad(want, (q, k, v, sink), grad)
        )

    def test_rows_without_keys(self):
        sink = torch.zeros(HEADS, dtype=torch.float64)
        out, lse, *gradients = compare(sa.Softmax, qkv(20, 30), [sink], "causal", q_start=-12)
        assert (out[:, :, :12] == 0).all() and (lse[:, :, :12] == -torch.inf).all()
        assert (gradients[0][:, :, :12] == 0).all() and gradients[-1].abs().min() > 0

    def test_gradcheck(self):
        assert gradcheck(sa.Softmax, qkv(5, 8, dim=3, batch=1), [draw(HEADS, seed=9)], "causal", q_start=-2)


def elastic_by_loops(q, k, v, tau, bias):
    """The definition, one row at a time, for q, k and v of one shape."""
    batch, heads, length, dim = q.shape
    out = torch.zeros_like(v)
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                scores = [
                    (q[b, h, i] @ k[b, h, j]) / math.sqrt(dim) + (bias[h, i - j] if i - j < bias.shape[1] else 0)
                    for j in range(i + 1)
                ]
                shares = torch.softmax(torch.stack(scores), 0)
                weights = torch.relu(shares + tau[h] / (i + 1))
                out[b, h, i] = weights @ v[b, h, : i + 1]
    return out


CAUSAL_PATTERNS = [sa.Causal(), sa.SlidingWindow.causal(20), sa.SlidingWindow(None, 9) & sa.Causal()]


class TestElastic:
    @pytest.mark.parametrize("pattern", CAUSAL_PATTERNS, ids=str)
    @pytest.mark.parametrize("distances", [None, 0, 1, 30, 64, 500])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_reference(self, dtype, distances, pattern):
        tau = draw(HEADS, seed=5, dtype=real(dtype)) - 0.3
        parameters = [tau] if distances is None else [tau, draw(HEADS, distances, seed=6, dtype=real(dtype))]
        # In 16 bits only q, k, v and the results are; a delta of their own sums makes dq and dk as exact.
        compare(sa.Elastic, qkv(75, 130, dtype=dtype), parameters, pattern)

    @pytest.mark.parametrize("tau", [-30.0, -1.0, -0.2, 0.0, 0.5, 40.0])
    def test_tau_of_both_signs(self, tau):
        taus = torch.full((HEADS,), tau, dtype=torch.float64)
        out, *_, dtau, _ = compare(
            sa.Elastic, qkv(90, 90), [taus, draw(HEADS, 12, seed=6)], sa.SlidingWindow.causal(50)
        )
        if tau == -30:  # more than any weight after the first row of 30 keys
            assert (out[:, :, 31:].abs().amax(-1) == 0).any()
        assert dtau.abs().min() > 0

    def test_definition(self):
        q, k, v = (draw(2, 3, 23, 5, seed=n).requires_grad_() for n in range(3))
        tau, bias = (-torch.ones(3, dtype=torch.float64)).requires_grad_(), draw(3, 8, seed=4).requires_grad_()
        want = elastic_by_loops(q, k, v, tau, bias)
        out = sa.attention(q, k, v, "causal", sa.Elastic(tau, bias))
        torch.testing.assert_close(out, want)
        inputs, grad = (q, k, v, tau, bias), draw(*out.shape, seed=9)
        torch.testing.assert_close(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(want, inputs, grad))

    def test_without_tau_and_bias_it_is_softmax(self):
        inputs = [t.requires_grad_() for t in qkv(70, 100, dtype=torch.float32)]
        elastic = sa.attention(*inputs, "causal", sa.Elastic(torch.zeros(HEADS)), return_statistic=True)
        plain = sa.attention(*inputs, "causal", return_statistic=True)
        torch.testing.assert_close(elastic, plain)
        gradients = [torch.autograd.grad([t.sum() for t in result], inputs) for result in (elastic, plain)]
        torch.testing.assert_close(*gradients)

    def test_weights_are_exactly_zero_off_the_support(self):
        q, k, _ = qkv(60, 60, dim=60, dtype=torch.float32)
        eye = torch.eye(60).expand(2, KV_HEADS, 60, 60)
        tau, bias = -torch.ones(HEADS), draw(HEADS, 9, seed=6, dtype=torch.float32)
        weights = sa.attention(q, k, eye, "causal", sa.Elastic(tau, bias))
        want, _ = reference_attention(q, k, eye, "causal", sa.Elastic(tau, bias))
        sure = (want == 0) | (want > 1e-6)
        assert torch.equal((weights == 0)[sure], (want == 0)[sure])
        kept = sa.Causal().to_dense(60, 60).expand_as(want)
        assert sure.double().mean() > 0.99 and 0.2 < (want[kept] == 0).double().mean() < 0.9

    def test_the_backward_has_the_support_of_the_forward(self):
        """Weights read off the forward, and off dv: the same zeros, and the same numbers."""
        q, k, _ = qkv(100, 100, dim=100, dtype=torch.float32)
        v = torch.eye(100).expand(2, KV_HEADS, 100, 100).clone().requires_grad_()
        q, k = q[:, :KV_HEADS], k
        normalizer = sa.Elastic(-torch.ones(KV_HEADS), draw(KV_HEADS, 30, seed=6, dtype=torch.float32, factor=0.1))
        out = sa.attention(q, k, v, "causal", normalizer, scale=3.0)
        (dv,) = torch.autograd.grad(out, v, torch.eye(100).expand_as(out))
        assert torch.equal(dv.transpose(-1, -2), out)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_equal_scores_are_just_at_the_threshold(self, dtype):
        """With tau = -1 such rows are exactly 0, and tau gets no gradient from them, as ReLU(0) has none."""
        q, k, v = qkv(130, 130, dtype=dtype)
        for factor in (0.0, 1.0):
            keys = k[:, :, :1].expand_as(k).contiguous()
            tau = (-torch.ones(HEADS, dtype=real(dtype))).requires_grad_()
            out = sa.attention(factor * q, keys, v, "causal", sa.Elastic(tau))
            assert (out == 0).all()
            assert (torch.autograd.grad(out.float().sum(), tau)[0] == 0).all()

    def test_rows_before_the_first_position(self):
        """They are 0 and give nothing, even where a key stands before them; tau / (i + 1) is not formed."""
        inputs = qkv(30, 50)
        parameters = [-torch.ones(HEADS, dtype=torch.float64), draw(HEADS, 12, seed=6)]
        out, lse, dq, *_ = got = compare(sa.Elastic, inputs, parameters, "causal", q_start=-10, k_start=-25)
        assert (out[:, :, :10] == 0).all() and (lse[:, :, :10] == -torch.inf).all() and (dq[:, :, :10] == 0).all()
        assert (out[:, :, 10:].abs().amax(-1) > 0).any() and lse[:, :, 10:].isfinite().all()
        assert all(not t.isnan().any() for t in got)

    def test_parts_of_a_sequence(self):
        """Rows computed in two calls, at their positions, are the rows of one."""
        q, k, v = qkv(80, 80)
        normalizer = sa.Elastic(-torch.ones(HEADS, dtype=torch.float64), draw(HEADS, 40, seed=6))
        pattern = sa.SlidingWindow.causal(33)
        whole, lse = sa.attention(q, k, v, pattern, normalizer, return_statistic=True)
        part, part_lse = sa.attention(
            q[:, :, 50:], k[:, :, 15:], v[:, :, 15:], pattern, normalizer, k_start=15, return_statistic=True
        )
        torch.testing.assert_close((part, part_lse), (whole[:, :, 50:], lse[:, :, 50:]))

    @pytest.mark.parametrize("scale", [1.0, -0.5, 0.0, 40.0, 1e4])
    def test_scales(self, scale):
        """The bias is not scaled, whatever the scale; scores of 1e5 keep the weights' accuracy."""
        parameters = [-torch.rand(HEADS, generator=torch.Generator().manual_seed(1)), draw(HEADS, 25, seed=6)]
        compare(sa.Elastic, qkv(60, 60), [t.double() for t in parameters], "causal", 1e-9, scale=scale)
        q, k, _ = (t.float() for t in qkv(60, 60))
        tau = torch.zeros(HEADS)
        ones = sa.attention(q, k, torch.ones_like(k), "causal", sa.Elastic(tau), scale=scale)
        torch.testing.assert_close(ones, torch.ones_like(ones))

    def test_patterns_that_look_ahead(self):
        q, k, v = qkv(20, 20)
        normalizer = sa.Elastic(-torch.ones(HEADS, dtype=torch.float64))
        for pattern in ("full", sa.SlidingWindow(5, 1), sa.BlockMask(torch.ones(2, 2, dtype=torch.bool), 16)):
            with pytest.raises(ValueError, match=r"Elastic.*after the query.*Causal"):
                sa.attention(q, k, v, pattern, normalizer)
            joined = (sa.Full() if pattern == "full" else pattern) & sa.Causal()
            assert sa.attention(q, k, v, joined, normalizer).isfinite().all()

    def test_gradcheck(self):
        parameters = [draw(HEADS, seed=9, factor=0.5) - 0.5, draw(HEADS, 4, seed=10)]
        assert gradcheck(sa.Elastic, qkv(6, 9, dim=3, batch=1), parameters, "causal", q_start=-2, k_start=-4)


INNER = {"softmax": sa.Softmax(), "entmax1.5": sa.Entmax(1.5), "entmax1.3": sa.Entmax(1.3), "sparsemax": sa.Entmax(2.0)}


def selected(row, k):
    """Which scores of a row (n,) attention() selects. Its scale hardly changes the selected weights from 1 / k."""
    n = row.shape[0]
    q, keys = torch.eye(1, n).expand(1, 1, 1, n), torch.zeros(1, 1, n, n)
    keys[0, 0, :, 0] = row
    return sa.attention(q, keys, torch.eye(n)[None, None], "full", sa.TopK(k), scale=2.0**-126)[0, 0, 0] > 0


class TestTopK:
    @pytest.mark.parametrize("pattern", ["full", "causal", sa.SlidingWindow(40, 7)], ids=str)
    @pytest.mark.parametrize("k", [1, 2, 7, 40, 1000])
    @pytest.mark.parametrize("inner", INNER)
    def test_reference_with_ties(self, inner, k, pattern):
        """Scores are small whole numbers, so most rows have ties at the threshold."""
        inputs = qkv(75, 130, make=integers)
        compare(lambda: sa.TopK(k, INNER[inner]), inputs, [], pattern)

    @pytest.mark.parametrize("inner", ["softmax", "entmax1.5", "entmax1.3"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dtypes(self, dtype, inner):
        inputs = qkv(100, 140, dtype=dtype, make=integers)
        compare(lambda: sa.TopK(6, INNER[inner]), inputs, [], "causal", scale=-0.25)

    @pytest.mark.parametrize("inner", INNER)
    def test_rows_of_equal_scores(self, inner):
        """The first k columns of the row, at any k."""
        q, k, _ = qkv(64, 200, dim=200)
        q, eye = torch.zeros_like(q), torch.eye(200, dtype=q.dtype).expand(2, KV_HEADS, 200, 200)
        for keep in (1, 3, 64, 199, 200, 201):
            weights = sa.attention(q, k, eye, "causal", sa.TopK(keep, INNER[inner]))
            column = torch.arange(200)
            kept = torch.arange(137, 201)[:, None].clamp(max=keep)
            want = ((column < kept) / kept).expand_as(weights)
            torch.testing.assert_close(weights, want.to(weights.dtype))

    @pytest.mark.parametrize("keys", [300, 4500])
    @pytest.mark.parametrize("most", [1, 3], ids=["many ties", "few ties"])
    def test_long_rows(self, most, keys):
        """More keys than the forward keeps scores of."""
        q, k, v = (make[:1] for make in qkv(5, keys, dim=8, make=lambda *a, **b: integers(*a, **b, most=most)))
        for keep in (1, 17, 100, keys // 2, keys - 1, keys, keys + 1):
            compare(lambda keep=keep: sa.TopK(keep), [q, k, v], [], sa.SlidingWindow(None, 2))

    def test_one_key_is_the_maximum(self):
        q, k, v = qkv(70, 90, dtype=torch.float32)
        scores = (q @ k.repeat_interleave(2, 1).transpose(-1, -2)) * 0.25
        best = scores.argmax(-1)
        out, statistic = sa.attention(q, k, v, "full", sa.TopK(1), return_statistic=True)
        want = v.repeat_interleave(2, 1).gather(2, best[..., None].expand(-1, -1, -1, 16))
        torch.testing.assert_close(out, want)
        torch.testing.assert_close(statistic, scores.amax(-1))

    @pytest.mark.parametrize("inner", ["softmax", "entmax1.5"])
    @pytest.mark.parametrize("k", [130, 131, 10**12])
    def test_a_k_beyond_the_row_changes_nothing(self, inner, k):
        inputs = [t.requires_grad_() for t in qkv(75, 130, dtype=torch.float32)]
        results = [
            sa.attention(*inputs, "causal", normalizer, return_statistic=True)
            for normalizer in (sa.TopK(k, INNER[inner]), INNER[inner])
        ]
        torch.testing.assert_close(*results)
        gradients = [torch.autograd.grad([t.sum() for t in result], inputs) for result in results]
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize("dim", [24, 64, 130])
    @pytest.mark.parametrize("scale", [0.125, -0.3])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
    def test_the_backward_selects_what_the_forward_selected(self, dtype, scale, dim):
        """Both compute the scores, with keys in the lanes or queries in them; one rounding apart would show here."""
        length = 130
        q = draw(1, 3, length, dim, seed=1, dtype=dtype)
        k = draw(1, 3, length, dim, seed=2, dtype=dtype)
        widths = [slice(n, n + dim) for n in range(0, length, dim)]
        forward, backward = [], []
        for width in widths:
            # Values and output gradients are one-hot: the forward shows columns of the weights, dv shows rows.
            eye = torch.eye(length, dtype=dtype)[:, width]
            eye = torch.nn.functional.pad(eye, (0, dim - eye.shape[1])).expand(1, 3, length, dim)
            v = eye.clone().requires_grad_()
            out = sa.attention(q, k, v, "full", sa.TopK(9), scale=scale)
            forward.append(out.detach())
            backward.append(torch.autograd.grad(out, v, eye)[0])
        forward, backward = (torch.cat(parts, -1)[..., :length] for parts in (forward, backward))
        assert ((forward != 0).sum(-1) == 9).all()
        assert torch.equal(forward != 0, backward.transpose(-1, -2) != 0)
        torch.testing.assert_close(forward, backward.transpose(-1, -2), rtol=TOLERANCE[dtype], atol=0)

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_any_numbers(self, data):
        """Scores of any float32 values, equal, subnormal and huge ones among them, select as a stable sort does."""
        some = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-38, 3e37, -3e37, 1 + 2**-23, 1 - 2**-24])
        number = some | st.floats(-(2.0**124), 2.0**124, width=32) | st.floats(-2, 2, width=16)
        n = data.draw(st.integers(1, 90))
        row = torch.tensor(data.draw(st.lists(number, min_size=n, max_size=n)), dtype=torch.float32)
        for k in {1, 2, n // 2, n - 1, data.draw(st.integers(1, n))} - {0, -1}:
            assert torch.equal(selected(row, k), top_k(row, torch.ones_like(row, dtype=torch.bool), k))

    def test_every_float_apart(self):
        """Neighbouring floats around 0 and at the ends of the range; midpoints of the values do not tell them apart."""
        steps = torch.arange(-40, 41, dtype=torch.int32)
        tiny = torch.where(steps < 0, -((-steps).view(torch.float32)), steps.view(torch.float32))
        near_one = (steps + torch.tensor(1.0).view(torch.int32)).view(torch.float32)
        mixed = torch.cat((tiny, near_one, tiny * 2.0**100, near_one * 2.0**100))[torch.randperm(324)]
        for row in (tiny.flip(0), near_one, mixed):
            for k in (1, len(row) // 3, len(row) // 2, len(row) - 1):
                assert torch.equal(selected(row, k), top_k(row, torch.ones_like(row, dtype=torch.bool), k))

    def test_parts_select_by_position_in_the_row(self):
        """Ties go to the smaller j, wherever the columns of a call begin."""
        q, k, v = qkv(40, 90, make=integers)
        pattern = sa.SlidingWindow.causal(30)
        whole = sa.attention(q, k, v, pattern, sa.TopK(5))
        part = sa.attention(q[:, :, 20:], k[:, :, 35:], v[:, :, 35:], pattern, sa.TopK(5), k_start=35)
        torch.testing.assert_close(part, whole[:, :, 20:])

    @pytest.mark.parametrize("inner", ["softmax", "entmax1.5", "entmax1.3"])
    def test_gradcheck(self, inner):
        inputs = qkv(6, 12, dim=3, batch=1)
        assert gradcheck(lambda: sa.TopK(4, INNER[inner]), inputs, [], "causal", q_start=-2)

    def test_nothing_flows_into_what_is_not_selected(self):
        q, k, v = (t.requires_grad_() for t in qkv(1, 60, batch=1))
        out, lse = sa.attention(q, k, v, "full", sa.TopK(3), return_statistic=True)
        dk, dv = torch.autograd.grad(out.sum() + lse.sum(), (k, v))
        for gradient in (dk, dv):  # two query heads read each key head
            rows = (gradient[0].abs().amax(-1) > 0).sum(-1)
            assert (rows >= 3).all() and (rows <= 6).all()


def every_normalizer(dtype=torch.float64):
    """(make, parameters) by name."""
    return {
        "sink": (sa.Softmax, [draw(HEADS, seed=5, dtype=dtype)]),
        "elastic": (sa.Elastic, [draw(HEADS, seed=5, dtype=dtype) - 0.5, draw(HEADS, 21, seed=6, dtype=dtype)]),
        "elastic without bias": (sa.Elastic, [draw(HEADS, seed=5, dtype=dtype) - 0.5]),
        "top 6": (lambda: sa.TopK(6), []),
        "top 6, entmax": (lambda: sa.TopK(6, 1.5), []),
        "top 6, entmax 1.3": (lambda: sa.TopK(6, 1.3), []),
    }


NAMES = list(every_normalizer())


@pytest.mark.parametrize("name", NAMES)
class TestEvery:
    @pytest.mark.parametrize(
        "options",
        [
            {"lengths": torch.tensor([41, 0])},
            {"lengths": torch.tensor([70, 1])},
            {"q_start": 90, "k_start": 13},
            {"q_start": -20, "k_start": -30},
            {"scale": -0.6},
        ],
        ids=lambda options: ",".join(options),
    )
    def test_options(self, name, options):
        make, parameters = every_normalizer()[name]
        got = compare(make, qkv(70, 70), parameters, sa.SlidingWindow.causal(45), **options)
        if "lengths" in options:
            for b, n in enumerate(options["lengths"]):
                assert all((t[b, :, n:] == 0).all() for t in (got[0], got[2]))

    def test_padded_caches(self, name):
        make, parameters = every_normalizer()[name]
        compare(make, qkv(3, 140), parameters, "causal", kv_lengths=torch.tensor([140, 66]))

    def test_packed_sequences_are_separate_problems(self, name):
        make, parameters = every_normalizer()[name]
        ends_q, ends_k = [0, 30, 30, 95], [0, 41, 50, 115]
        q, k, v = (t[0].transpose(0, 1) for t in qkv(95, 115, batch=1))

        def packed(q, k, v, *parameters):
            ends = (torch.tensor(ends, dtype=torch.int32) for ends in (ends_q, ends_k))
            out, statistic = sa.attention_varlen(
                q, k, v, *ends, 65, 65, "causal", make(*parameters), return_statistic=True
            )
            return out.transpose(0, 1), statistic

        def apart(q, k, v, *parameters):
            parts = []
            for n in range(3):
                rows, keys = slice(*ends_q[n : n + 2]), slice(*ends_k[n : n + 2])
                one = [t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys])]
                parts.append(sa.attention(*one, "causal", make(*parameters), return_statistic=True))
            return [torch.cat(part, 2)[0] for part in zip(*parts, strict=True)]

        assert_same(run(packed, [q, k, v, *parameters]), run(apart, [q, k, v, *parameters]), 1e-13)

    def test_a_nan_reaches_the_rows_that_keep_it(self, name):
        make, parameters = every_normalizer()[name]
        q, k, v = qkv(60, 60)
        k[:, :, 30] = torch.nan
        out, statistic = sa.attention(q, k, v, sa.SlidingWindow.causal(10), make(*parameters), return_statistic=True)
        keeps_it = torch.arange(60).sub(30).div(10, rounding_mode="floor") == 0
        assert torch.equal(out.isnan().all(-1), keeps_it.expand(2, HEADS, 60))
        assert torch.equal(out.isnan().any(-1), keeps_it.expand(2, HEADS, 60))
        assert not statistic[:, :, ~keeps_it].isnan().any()

    def test_no_nan_from_padding(self, name):
        """NaN in keys, values and queries past a length touches nothing, gradients of the parameters included."""
        make, parameters = every_normalizer()[name]
        lengths = torch.tensor([44, 61])

        def poisoned(t):
            t = t.clone()
            for b, n in enumerate(lengths):
                t[b, :, n:] = torch.nan
            return t

        inputs = qkv(70, 70)

        def function(q, k, v, *parameters):
            return sa.attention(q, k, v, "causal", make(*parameters), lengths=lengths, return_statistic=True)

        clean = run(function, [*inputs, *parameters])
        dirty = run(function, [*(poisoned(t) for t in inputs), *parameters])
        for a, b in zip(clean, dirty, strict=True):
            assert torch.equal(a, b)

    def test_saved_rows_are_those_of_the_kernel(self, name):
        make, parameters = every_normalizer(torch.float32)[name]
        encoded = make(*parameters).encode()
        q, k, v = qkv(10, 20, dtype=torch.float32)
        arguments = q, k, v, "causal", [], [], *encoded, None, None, None, None, 0, 0, 10, 0, 0.25, False
        parameters = [t.contiguous() for t in encoded.parameters]
        assert parameters == encoded.parameters or len(parameters) == len(encoded.parameters)
        _, _, saved = torch.ops.splash.attention_forward(*arguments)
        assert saved.shape == (SAVED[encoded.name], 2, HEADS, 10)

    def test_parameters_learn_under_compile_and_autocast(self, name):
        """Parameters stay float32 and get float32 gradients while q, k and v are cast."""
        make, parameters = every_normalizer(torch.float32)[name]
        inputs = [t.requires_grad_() for t in (*qkv(40, 50, dtype=torch.float32), *parameters)]

        def function(q, k, v, *parameters):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return sa.attention(q, k, v, "causal", make(*parameters))

        want = function(*inputs)
        out = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
        assert out.dtype is torch.bfloat16 and torch.equal(out, want)
        grad = draw(*out.shape, dtype=out.dtype)
        got, want = (torch.autograd.grad(result, inputs, grad) for result in (out, want))
        for a, b in zip(got, want, strict=True):
            assert a.dtype is torch.float32 and torch.equal(a, b)

    def test_half_parameters_get_half_gradients(self, name):
        make, parameters = every_normalizer(torch.float32)[name]
        parameters = [t.to(torch.bfloat16).requires_grad_() for t in parameters]
        out = sa.attention(*qkv(40, 50, dtype=torch.bfloat16), "causal", make(*parameters))
        if parameters:
            gradients = torch.autograd.grad(out.float().sum(), parameters)
            assert all(g.dtype is torch.bfloat16 and g.abs().max() > 0 for g in gradients)


class TestArguments:
    def test_encoding(self):
        sink, tau, bias = torch.zeros(4), torch.zeros(4), torch.zeros(4, 3)
        assert sa.Softmax().encode() == ("softmax", [], [])
        assert sa.Entmax(1.25).encode() == ("entmax", [1.25], [])
        assert sa.Entmax(1).encode() == ("softmax", [], [])
        assert sa.TopK(3).encode() == ("top_k_softmax", [3.0], [])
        assert sa.TopK(3, 1.5).encode() == ("top_k_entmax", [1.5, 3.0], [])
        assert sa.TopK(3, sa.Entmax(1)).encode() == ("top_k_softmax", [3.0], [])
        name, floats, (parameter,) = sa.Softmax(sink).encode()
        assert (name, floats) == ("softmax_sink", []) and parameter is sink
        name, floats, parameters = sa.Elastic(tau, bias).encode()
        assert (name, floats) == ("elastic", []) and parameters[0] is tau and parameters[1] is bias
        assert sa.Elastic(tau).encode().parameters[1].shape == (4, 0)

    def test_equality(self):
        sink = torch.zeros(4)
        assert sa.Softmax() == sa.Softmax() and hash(sa.Softmax()) == hash(sa.Softmax())
        assert sa.TopK(3) == sa.TopK(3, "softmax") != sa.TopK(4)
        assert sa.TopK(3, 1.5) == sa.TopK(3, sa.Entmax(1.5)) != sa.TopK(3)
        assert len({sa.TopK(3), sa.TopK(3, sa.Softmax()), sa.Softmax(), sa.Softmax(None)}) == 2
        one, other = sa.Softmax(sink), sa.Softmax(sink)
        assert one == one and one != other and one != sa.Softmax() and len({one, other}) == 2
        one, other = sa.Elastic(sink), sa.Elastic(sink)
        assert one == one and one != other and len({one, other}) == 2
        assert sa.Softmax() != "softmax" and sa.Softmax() != sa.Entmax(1)

    @pytest.mark.parametrize(
        "make, kind, text",
        [
            (lambda: sa.Softmax(1.0), TypeError, "sink_logit.*tensor.*float"),
            (lambda: sa.Softmax(torch.zeros(4, dtype=torch.int64)), TypeError, "sink_logit.*int64"),
            (lambda: sa.Softmax(torch.zeros(4, 1)), ValueError, r"sink_logit.*\(Hq\).*\(4, 1\)"),
            (lambda: sa.Elastic(None), TypeError, "tau.*NoneType"),
            (lambda: sa.Elastic(torch.zeros(())), ValueError, r"tau.*\(Hq\).*\(\)"),
            (lambda: sa.Elastic(torch.zeros(4), torch.zeros(4)), ValueError, r"bias.*\(Hq, T\).*\(4,\)"),
            (lambda: sa.Elastic(torch.zeros(4), torch.zeros(4, 2) > 0), TypeError, "bias.*bool"),
            (lambda: sa.TopK(0), ValueError, "k: .*at least 1.*0"),
            (lambda: sa.TopK(-3), ValueError, "k: .*-3"),
            (lambda: sa.TopK(2.0), TypeError, "k: .*int.*float"),
            (lambda: sa.TopK(True), TypeError, "k: .*bool"),
            (lambda: sa.TopK(3, sa.TopK(2)), ValueError, "then: .*Softmax.*Entmax.*TopK"),
            (lambda: sa.TopK(3, sa.Softmax(torch.zeros(4))), ValueError, "then: .*without sink_logit"),
            (lambda: sa.TopK(3, sa.Elastic(torch.zeros(4))), ValueError, "then: .*Elastic"),
            (lambda: sa.TopK(3, 3.0), ValueError, "alpha.*3.0"),
            (lambda: sa.TopK(3, None), TypeError, "NoneType"),
            (lambda: sa.TopK(3, "elastic"), ValueError, "elastic"),
        ],
    )
    def test_constructors(self, make, kind, text):
        with pytest.raises(kind, match=text):
            make()

    @pytest.mark.parametrize("heads", [1, 2, 5, 0])
    def test_one_number_a_query_head(self, heads):
        q, k, v = qkv(8, 8)
        wrong, right = torch.zeros(heads, dtype=torch.float64), torch.zeros(HEADS, dtype=torch.float64)
        for normalizer, name in (
            (sa.Softmax(wrong), "sink_logit"),
            (sa.Elastic(wrong), "tau"),
            (sa.Elastic(right, torch.zeros(heads, 3)), "bias"),
        ):
            with pytest.raises(ValueError, match=f"{name}.*{HEADS}.*{heads}"):
                sa.attention(q, k, v, "causal", normalizer)

    def test_parameters_of_other_devices_and_dtypes(self):
        q, k, v = qkv(8, 8, dtype=torch.float32)
        with pytest.raises(ValueError, match="device"):
            sa.attention(q, k, v, "causal", sa.Softmax(torch.zeros(HEADS, device="meta")))
        sink = draw(HEADS, seed=5)
        out = sa.attention(q, k, v, "causal", sa.Softmax(sink))
        assert torch.equal(out, sa.attention(q, k, v, "causal", sa.Softmax(sink.float())))
