"""What users of other attention functions write: a TypeError that says what it is called here, or that it is not."""

import pytest
import torch

import splash_attention as sa

Q = torch.zeros(1, 2, 8, 16)
ENDS = torch.tensor([0, 8], dtype=torch.int32)
MASK = torch.ones(8, 8, dtype=torch.bool)

SAID = {
    "is_causal": '"causal"',
    "causal": '"causal"',
    "attn_mask": r"ElementMask\(mask\)",
    "attention_mask": r"ElementMask\(mask\)",
    "window_size": r"SlidingWindow\.causal\(w\)",
    "sliding_window": r"SlidingWindow\.causal\(w\)",
    "dropout_p": "does not exist",
    "dropout": "does not exist",
    "softcap": "do not exist yet",
    "alibi_slopes": "do not exist yet",
    "bias": "do not exist yet",
    "attn_bias": "do not exist yet",
    "score_mod": "do not exist yet",
    "softmax_scale": "called scale",
    "sm_scale": "called scale",
    "enable_gqa": "leave it out",
    "block_mask": r"BlockMask\.from_flex",
    "key_padding_mask": "lengths",
    "cache_seqlens": "kv_lengths",
    "block_table": "paged",
    "s_aux": "sink_logit",
    "alpha": r"Entmax\(alpha\)",
    "return_attn_probs": "return_statistic",
    "scal": "did you mean scale",
    "anything": "expected one of q, k, v",
}


@pytest.mark.parametrize("name", SAID)
def test_arguments_of_others(name):
    for call, function in (
        (lambda **given: sa.attention(Q, Q, Q, **given), "attention"),
        (lambda **given: sa.attention_varlen(Q[0], Q[0], Q[0], ENDS, ENDS, 8, 8, **given), "attention_varlen"),
    ):
        with pytest.raises(TypeError, match=rf"^{name}: {function}\(\) has no such argument; .*{SAID[name]}"):
            call(**{name: None})


def test_arguments_of_the_other_function():
    with pytest.raises(TypeError, match=r"^cu_seqlens_q: .*attention_varlen"):
        sa.attention(Q, Q, Q, cu_seqlens_q=ENDS)
    for name, text in (("lengths", "cu_seqlens_q"), ("q_start", "positions of their own")):
        with pytest.raises(TypeError, match=f"^{name}: .*{text}"):
            sa.attention_varlen(Q[0], Q[0], Q[0], ENDS, ENDS, 8, 8, **{name: None})


OTHERS = {
    "longnet_attention": lambda **given: sa.longnet_attention(Q, Q, Q, [(4, 1)], **given),
    "merge": lambda **given: sa.merge(Q, Q[..., 0], Q, Q[..., 0], **given),
    "prepare": lambda **given: sa.prepare("causal", Q, Q, **given),
}
SAID_BY = {
    ("longnet_attention", "is_causal"): "called causal",
    ("longnet_attention", "attn_mask"): "no masks but causal and lengths",
    ("longnet_attention", "window_size"): "segments",
    ("longnet_attention", "cu_seqlens"): "lengths",
    ("longnet_attention", "softmax_scale"): "called scale",
    ("longnet_attention", "dropout_p"): "does not exist",
    ("longnet_attention", "return_lse"): "mixed already",
    ("merge", "is_causal"): "patterns of those calls",
    ("merge", "attn_mask"): "patterns of those calls",
    ("merge", "cu_seqlens"): "packed",
    ("merge", "scale"): "has been scaled",
    ("merge", "alpha"): r"only results of Softmax\(\) merge",
    ("merge", "lse"): "o1, lse1, o2 and lse2",
    ("prepare", "is_causal"): '"causal"',
    ("prepare", "attn_mask"): r"ElementMask\(mask\)",
    ("prepare", "window_size"): r"SlidingWindow\.causal",
    ("prepare", "cu_seqlens"): "pass the pattern itself",
    ("prepare", "softmax_scale"): r"call of attention\(\)",
    ("prepare", "v"): "leave it out",
}


@pytest.mark.parametrize("function, name", SAID_BY)
def test_arguments_of_others_elsewhere(function, name):
    with pytest.raises(TypeError, match=rf"^{name}: {function}\(\) has no such argument; .*{SAID_BY[function, name]}"):
        OTHERS[function](**{name: None})


def test_several_at_once():
    with pytest.raises(TypeError, match=r"is_causal: .*\. dropout_p: "):
        sa.attention(Q, Q, Q, is_causal=True, dropout_p=0.1)


@pytest.mark.parametrize(
    "pattern, said",
    [
        (MASK, r"ElementMask\(mask\)"),
        (MASK.float(), "masks that are added do not exist yet"),
        (True, '"causal"'),
        (256, r"SlidingWindow\.causal"),
        (sa.Causal, r"Causal\(\.\.\.\) makes one"),
        (None, "expected a pattern or a string, got NoneType"),
    ],
)
def test_values_of_pattern(pattern, said):
    with pytest.raises(TypeError, match=f"pattern: expected a pattern or a string, .*{said}|{said}"):
        sa.attention(Q, Q, Q, pattern)


def test_window_of_one_number():
    for make in (lambda: sa.SlidingWindow(256), lambda: sa.SlidingWindow(left=256)):
        with pytest.raises(TypeError, match=r"right: .*left 256; SlidingWindow\.causal\(w\).*symmetric\(w\)"):
            make()
    assert sa.SlidingWindow(256, None) == sa.SlidingWindow(left=256, right=None)


def test_unions():
    with pytest.raises(TypeError, match=r"do not exist yet; ElementMask\(a\.to_dense"):
        sa.Causal() | sa.BlockDiagonal(4)
    with pytest.raises(TypeError, match=r"ElementMask\(mask\)"):
        sa.Causal() & MASK
    for other in (3, "causal", None):
        with pytest.raises(TypeError):
            sa.Causal() | other
