"""Elastic softmax: weights by position, the bias by distance, and what both learn."""

import math

import pytest
import torch
from normalizer_problem import DTYPES, HEADS, KV_HEADS, compare, draw, gradcheck, qkv, real

import splash_attention as sa
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")


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
