"""Random patterns and conjunctions through attention() and attention_varlen() in float64, against the reference."""

import random

import pytest
import torch
from drawn_patterns import DrawnPatterns

import splash_attention as sa
from splash_attention.reference import reference_attention

HEADS, KV_HEADS, DIM = 4, 2, 8
TOLERANCE = 1e-10
pytestmark = pytest.mark.usefixtures("one_thread")


class Draw(DrawnPatterns):
    """Patterns, normalizers and tensors."""

    def __init__(self, seed, batch, Nq, Nk):
        super().__init__(seed, batch, HEADS, Nq, Nk)

    def normalizer(self):
        return self.random.choice((sa.Softmax(), sa.Entmax(1.5), sa.Entmax(1.3), sa.Entmax(2.0)))

    def tensor(self, *shape):
        return torch.randn(*shape, DIM, generator=self.generator, dtype=torch.float64)


def assert_same(ours, theirs, text):
    for name, got, want in zip(("out", "statistic", "dq", "dk", "dv"), ours, theirs, strict=True):
        infinite = want.isinf()
        assert torch.equal(got[infinite], want[infinite]), f"{name} of {text}"
        difference = (got - want)[~infinite]
        assert not difference.numel() or difference.abs().max() < TOLERANCE, f"{name} of {text}"


def with_gradients(function, q, k, v, grad):
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    out, statistic = function(q, k, v)
    return out, statistic, *torch.autograd.grad(out, (q, k, v), grad)


@pytest.mark.parametrize("seed", range(60))
def test_problems(seed):
    choice = random.Random(seed)
    batch, Nq = choice.choice((1, 2)), choice.randrange(1, 260)
    Nk = choice.choice((Nq, choice.randrange(1, 260)))
    draw = Draw(seed, batch, Nq, Nk)
    pattern, normalizer = draw.conjunction(), draw.normalizer()
    options = choice.choice(
        [
            {},
            {"q_start": choice.randrange(-100, 300), "k_start": choice.randrange(-100, 100)},
            {"kv_lengths": torch.tensor([choice.randrange(Nk + 1) for _ in range(batch)])},
            {"lengths": torch.tensor([choice.randrange(Nq + 1) for _ in range(batch)])} if Nq == Nk else {},
        ]
    )
    q, grad = draw.tensor(batch, HEADS, Nq), draw.tensor(batch, HEADS, Nq)
    k, v = draw.tensor(batch, KV_HEADS, Nk), draw.tensor(batch, KV_HEADS, Nk)
    ours, theirs = (
        with_gradients(lambda q, k, v, f=function: f(q, k, v, pattern, normalizer, **options), q, k, v, grad)
        for function in (lambda *a, **o: sa.attention(*a, **o, return_statistic=True), reference_attention)
    )
    assert_same(ours, theirs, f"{pattern!r}, {normalizer!r}, {options}")


@pytest.mark.parametrize("seed", range(30))
def test_packed_sequences(seed):
    """Each sequence on its own is what it is among others."""
    choice = random.Random(1000 + seed)
    lengths = [(choice.choice((0, 1, 17, 64, 150)), choice.choice((0, 1, 30, 64, 170))) for _ in range(4)]
    ends_q, ends_k = ([sum(pair[n] for pair in lengths[:b]) for b in range(5)] for n in (0, 1))
    Nq, Nk = (max(pair[n] for pair in lengths) for n in (0, 1))
    draw = Draw(1000 + seed, 1, Nq, Nk)
    pattern, normalizer = draw.conjunction(packed=True), draw.normalizer()
    q, grad = draw.tensor(ends_q[-1], HEADS), draw.tensor(ends_q[-1], HEADS)
    k, v = draw.tensor(ends_k[-1], KV_HEADS), draw.tensor(ends_k[-1], KV_HEADS)
    offsets = [torch.tensor(ends, dtype=torch.int32) for ends in (ends_q, ends_k)]

    def packed(q, k, v):
        return sa.attention_varlen(q, k, v, *offsets, Nq, Nk, pattern, normalizer, return_statistic=True)

    def one_by_one(q, k, v):
        parts = []
        for b in range(4):
            rows, columns = slice(*ends_q[b : b + 2]), slice(*ends_k[b : b + 2])
            q_b, k_b, v_b = (t.transpose(0, 1)[None] for t in (q[rows], k[columns], v[columns]))
            out, statistic = reference_attention(q_b, k_b, v_b, pattern, normalizer)
            parts.append((out[0].transpose(0, 1), statistic[0]))
        return torch.cat([out for out, _ in parts]), torch.cat([statistic for _, statistic in parts], 1)

    ours, theirs = (with_gradients(function, q, k, v, grad) for function in (packed, one_by_one))
    assert_same(ours, theirs, f"{pattern!r}, {normalizer!r}, {lengths}")


@pytest.mark.parametrize("seed", range(12))
def test_prepared_patterns(seed):
    draw = Draw(2000 + seed, 2, 150, 190)
    pattern, normalizer = draw.conjunction(), draw.normalizer()
    q, grad = draw.tensor(2, HEADS, 150), draw.tensor(2, HEADS, 150)
    k, v = draw.tensor(2, KV_HEADS, 190), draw.tensor(2, KV_HEADS, 190)
    prepared = sa.prepare(pattern, q, k)
    assert torch.equal(prepared.to_dense(150, 190, heads=HEADS), pattern.to_dense(150, 190, heads=HEADS))

    def call(pattern):
        return with_gradients(
            lambda q, k, v: sa.attention(q, k, v, pattern, normalizer, return_statistic=True), q, k, v, grad
        )

    for ours, theirs in zip(call(prepared), call(pattern), strict=True):
        assert torch.equal(ours, theirs)
