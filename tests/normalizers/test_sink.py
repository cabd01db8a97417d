"""Softmax with a sink logit: sinks of any size and sign."""

import pytest
import torch
from normalizer_problem import DTYPES, HEADS, compare, draw, gradcheck, qkv, real
from torch.nn.functional import scaled_dot_product_attention

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")


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
