"""Which statistics merge: those of a softmax, and no other."""

import copy
import io
import pickle

import pytest
import torch

import splash_attention as sa

HEADS, N, D = 4, 12, 8
Q, K, V = (torch.randn(2, HEADS, N, D, generator=torch.Generator().manual_seed(n)) for n in range(3))
TAU, BIAS = -torch.ones(HEADS), torch.zeros(HEADS, 3)
ENDS = torch.tensor([0, 5, N], dtype=torch.int32)
REFUSED = {
    "Entmax": 1.5,
    "sparsemax": sa.Entmax(2),
    "TopK": sa.TopK(3),
    "TopK of Entmax": sa.TopK(3, 1.5),
    "Elastic": sa.Elastic(TAU, BIAS),
    "sink": sa.Softmax(TAU),
}
EVERY = pytest.mark.parametrize("normalizer", REFUSED.values(), ids=REFUSED)


def attend(normalizer, q=Q):
    return sa.attention(q, K, V, "causal", normalizer, return_statistic=True)


def refuses(*parts):
    with pytest.raises(ValueError, match=r"lse[12]: expected the log-sum-exp of Softmax\(\) .*, got the statistic of"):
        sa.merge(*parts)


@EVERY
def test_statistics_that_do_not_merge(normalizer):
    out, row = attend(normalizer)
    good, lse = attend(1)
    for other in ((out, row), (good, lse)):
        refuses(out, row, *other)
        refuses(*other, out, row)


@EVERY
def test_views_and_packed_calls(normalizer):
    out, row = attend(normalizer)
    refuses(out[:, :2], row[:, :2], out[:, 2:], row[:, 2:])
    refuses(out.detach(), row.detach(), out, row.detach())
    refuses(out.flatten(0, 1), row.flatten(0, 1), out.flatten(0, 1), row.flatten(0, 1))
    refuses(out[:, None], row[:, None], out[:, None], row.unsqueeze(1))
    packed = (t[0].transpose(0, 1).contiguous() for t in (Q, K, V))
    out, row = sa.attention_varlen(*packed, ENDS, ENDS, 7, 7, "causal", normalizer, return_statistic=True)
    refuses(out.transpose(0, 1), row, out.transpose(0, 1), row)
    refuses(out, row.T, out, row.T)


@EVERY
def test_transforms_and_compiled_code(normalizer):
    def merged(q):
        return sa.merge(*attend(normalizer, q), *attend(normalizer, q))[0].sum()

    with pytest.raises(ValueError, match="lse1"):
        torch.func.grad(merged)(Q)
    with pytest.raises(ValueError, match="lse1"):
        torch.vmap(merged)(Q[None])
    leaf = Q.clone().requires_grad_()
    refuses(*attend(normalizer, leaf), *attend(normalizer, leaf))
    torch._dynamo.reset()
    compiled = torch.compile(lambda q: attend(normalizer, q), backend="aot_eager", fullgraph=True)(Q)
    refuses(*compiled, *attend(1))
    torch._dynamo.reset()
    with pytest.raises((ValueError, torch._dynamo.exc.Unsupported)):
        torch.compile(merged, backend="aot_eager", fullgraph=True)(Q)


@EVERY
def test_what_is_stored(normalizer):
    out, row = attend(normalizer)
    stored = io.BytesIO()
    torch.save((out, row), stored)
    stored.seek(0)
    refuses(*torch.load(stored, weights_only=True), out, row)


@pytest.mark.parametrize("normalizer", ["softmax", 1, sa.Softmax()], ids=repr)
def test_softmax_merges(normalizer):
    """Any number of parts, compiled or not, and as tensors of the user's own."""
    # Keys of a part stand where they stood.
    parts = [
        sa.attention(
            Q, K[:, :, a : a + 4], V[:, :, a : a + 4], "causal", normalizer, q_start=0, k_start=a, return_statistic=True
        )
        for a in (0, 4, 8)
    ]
    want = attend(normalizer)

    def merged(parts):
        return sa.merge(*sa.merge(*parts[0], *parts[1]), *parts[2])

    torch._dynamo.reset()
    own = [(out.clone(), torch.tensor(row.numpy())) for out, row in parts]
    for got in (merged(parts), merged(own), torch.compile(merged, backend="aot_eager", fullgraph=True)(parts)):
        torch.testing.assert_close(got, want)


def test_what_a_user_computes_is_a_log_sum_exp():
    """A sink that is counted by hand is one more key, once."""
    sink = torch.linspace(-1, 1, HEADS)
    out, row = sa.attention(Q, K, V, normalizer=sa.Softmax(sink), return_statistic=True)
    with_sink = torch.logaddexp(row, sink[:, None])
    plain, lse = sa.attention(Q, K, V, return_statistic=True)
    got, _ = sa.merge(plain, lse, torch.zeros_like(plain), sink[:, None].expand_as(lse))
    torch.testing.assert_close(got, out)
    assert sa.merge(out, with_sink, plain, lse)[0].isfinite().all()


def test_copies_carry_the_kind():
    out, tau = sa.attention(*[torch.ones(1, 2, 4, 8)] * 3, "full", 1.5, return_statistic=True)
    saved = io.BytesIO()
    torch.save(tau, saved)
    saved.seek(0)
    for copied in (copy.copy(tau), copy.deepcopy(tau), pickle.loads(pickle.dumps(tau)), torch.load(saved)):
        with pytest.raises(ValueError, match="statistic of Entmax"):
            sa.merge(out, copied, out, copied)
