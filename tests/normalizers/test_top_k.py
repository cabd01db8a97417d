"""Exact top-k selection: which keys, ties, and what flows back through them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from normalizer_problem import DTYPES, KV_HEADS, TOLERANCE, compare, draw, gradcheck, integers, qkv

import splash_attention as sa
from splash_attention.reference.normalizers import top_k

pytestmark = pytest.mark.usefixtures("one_thread")


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
