"""One rule for dtypes in every function that takes tensors, with autocast and without."""

import re

import pytest
import torch

import splash_attention as sa
from splash_attention.compat.adasplash import adasplash, lazy_attention_triton, triton_sparsemax
from splash_attention.modules import FlashAttention, SplashAttention, StandardAttention

HEADS, N, D = 4, 40, 16
ENDS = torch.tensor([0, 15, N], dtype=torch.int32)
TAU, BIAS = -torch.ones(HEADS), torch.zeros(HEADS, 5)
LOWER = pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)


def draw(seed):
    return torch.randn(1, HEADS, N, D, generator=torch.Generator().manual_seed(seed))


def varlen(q, k, v):
    return sa.attention_varlen(*(t[0].transpose(0, 1) for t in (q, k, v)), ENDS, ENDS, 25, 25, "causal", 1.5)


def chosen(q, k, v):
    return sa.top_k_blocks(q, k, 16, 2).to_dense(N, N, HEADS).float()


def prepared(q, k, v):
    return sa.attention(q, k, v, sa.prepare(sa.SlidingWindow.causal(7), q, k))


FUNCTIONS = {
    "attention": lambda q, k, v: sa.attention(q, k, v, "causal", 1.5),
    "elastic": lambda q, k, v: sa.attention(q, k, v, "causal", sa.Elastic(TAU, BIAS)),
    "attention_varlen": varlen,
    "longnet_attention": lambda q, k, v: sa.longnet_attention(q, k, v, ((8, 1), (16, 2))),
    "merge": lambda q, k, v: sa.merge(q, q[..., 0].float(), k, k[..., 0].float())[0],
    "top_k_blocks": chosen,
    "prepare": prepared,
    "SplashAttention": SplashAttention(D),
    "FlashAttention": FlashAttention(),
    "StandardAttention": StandardAttention(),
    "adasplash": adasplash,
    "lazy_attention_triton": lambda q, k, v: lazy_attention_triton(q, k, v, BIAS, TAU, 5),
}
"""Functions of q, k and v."""
FIRST_TWO = {"merge": "o1, o2", "top_k_blocks": "q, k", "prepare": "q, k"}
ROWS = {
    "entmax": sa.entmax,
    "entmax 1": lambda x: sa.entmax(x, 1),
    "entmax15": sa.entmax15,
    "sparsemax": sa.sparsemax,
    "triton_sparsemax": triton_sparsemax,
}


@LOWER
@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs_of_several_dtypes_are_cast(name, lower):
    """Under autocast: what the inputs give that were cast before."""
    q, k, v = draw(0), draw(1).bfloat16(), draw(2).half()
    if name == "merge":  # its statistics are read as they come
        row = q[..., 0], k[..., 0].float()
        want = sa.merge(q.to(lower), row[0], k.to(lower), row[1])[0]
    else:
        want = FUNCTIONS[name](*(t.to(lower) for t in (q, k, v)))
    with torch.autocast("cpu", lower):
        got = FUNCTIONS[name](q, k, v)
    assert got.dtype == want.dtype
    if name == "StandardAttention":  # single operations of Torch, whose softmax autocast may round elsewhere
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)
    else:
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_several_dtypes_without_autocast(name):
    q, k, v = draw(0), draw(1).bfloat16(), draw(2)
    names = FIRST_TWO.get(name, "q, k, v")
    text = f"{names}: expected one dtype, got torch.float32"
    with pytest.raises(TypeError, match=re.escape(text)):
        FUNCTIONS[name](q, k, v)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_is_not_cast(name):
    """And what was given is named, not what autocast has made of it."""
    q, k, v = (draw(seed) for seed in range(3))
    names = FIRST_TWO.get(name, "q, k, v")
    with torch.autocast("cpu", torch.bfloat16):
        assert FUNCTIONS[name](q.double(), k.double(), v.double()).dtype in (torch.float64, torch.float32)
        with pytest.raises(
            TypeError, match=rf"{names}: expected one dtype \(autocast .*, got torch.float64.* torch.float32"
        ):
            FUNCTIONS[name](q.double(), k, v)


@LOWER
@pytest.mark.parametrize("name", ROWS)
def test_rows_are_float32(name, lower):
    x = draw(0)
    with torch.autocast("cpu", lower):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            got = ROWS[name](x.to(dtype))
            assert got.dtype is torch.float32
            assert torch.equal(got, ROWS[name](x.to(dtype).float()))
        assert ROWS[name](x.double()).dtype is torch.float64
    assert ROWS[name](x.to(lower)).dtype is lower


def test_scores_of_blocks_are_not_rounded():
    """top_k_blocks scores in float32 whatever autocast does to products."""
    q, k = torch.ones(1, 1, 16, 16), torch.ones(1, 1, 64, 16)
    k[..., 32:48, :] += 2**-7
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            mask = sa.top_k_blocks(q, k, 16, 2, causal=False, q_start=63).mask
        assert mask.flatten().tolist() == [False, False, True, True]


@pytest.mark.parametrize("name", ["attention", "merge", "top_k_blocks", "longnet_attention"])
def test_compiled(name):
    torch._dynamo.reset()
    q, k, v = draw(0), draw(1).bfloat16(), draw(2)

    def function(q, k, v):
        with torch.autocast("cpu", torch.bfloat16):
            return FUNCTIONS[name](q, k, v)

    got = torch.compile(function, backend="aot_eager", fullgraph=True)(q, k, v)
    torch.testing.assert_close(got, function(q, k, v))


def test_packed_tensors_are_named_as_they_were_passed():
    """(T, H, D), not what they become."""
    q, k, v = (draw(seed)[0].transpose(0, 1) for seed in range(3))
    ends = ENDS, ENDS, 25, 25
    for arguments, text in (
        ((q, k[..., :8], v), f"k: expected shape (tokens, kv_heads, {D}) to go with q ({N}, {HEADS}, {D})"),
        ((q, k, v[:5]), f"v: expected k's shape ({N}, {HEADS}, {D}), got (5, {HEADS}, {D})"),
        ((q[0], k, v), f"q: expected 3 dimensions (tokens, heads, head_dim), got shape ({HEADS}, {D})"),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            sa.attention_varlen(*arguments, *ends)
    with pytest.raises(ValueError, match="q: expected a number of heads"):
        sa.prepare("causal", draw(0), draw(1)[:, :3])
