"""Arguments that other attention functions have and these do not: what says the same here, or that nothing does yet."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

_HINTS = {
    "causality is a pattern: attention(q, k, v, \"causal\"), or Causal() & another one": ("is_causal", "causal"),
    "windows are patterns: SlidingWindow.causal(w) keeps the last w keys, SlidingWindow.symmetric(w) w to either side, "
    "SlidingWindow(left, right) any (None is unlimited)": (
        "window_size", "window", "sliding_window", "local_window_size",
    ),
    "masks are patterns: ElementMask(mask) of a bool mask, True where a score is kept, BlockMask(mask, block) of "
    "blocks; lengths and kv_lengths say padding; masks that are added to the scores do not exist yet": (
        "attn_mask", "attention_mask", "mask", "mask_mod",
    ),
    "block masks are patterns: BlockMask.from_flex(block_mask), or BlockMask(mask, block)": ("block_mask",),
    "padding is said by lengths (right-padded batches) or kv_lengths (caches), (B,) numbers of tokens": (
        "key_padding_mask", "cache_seqlens", "seqlens_k", "seqlens", "seq_lens",
    ),
    "numbers added to the scores do not exist yet; the normalizer Elastic(tau, bias) has a bias by distance": (
        "bias", "attn_bias", "alibi_slopes", "score_mod", "position_bias", "pos_bias",
    ),
    "soft caps do not exist yet": ("softcap", "soft_cap", "logits_soft_cap", "attn_logit_softcapping"),
    "dropout of weights does not exist; leave it out, or drop from the output": (
        "dropout_p", "dropout", "attn_dropout", "dropout_rate",
    ),
    "that is called scale here": ("softmax_scale", "sm_scale", "scaling", "qk_scale", "scale_factor"),
    "leave it out: k and v with fewer heads serve several query heads each without being asked": ("enable_gqa",),
    "entmax is a normalizer: attention(q, k, v, pattern, Entmax(alpha)), or its number alone": ("alpha",),
    "sinks are a normalizer: Softmax(sink_logit)": ("sinks", "sink", "s_aux", "sink_logit", "learnable_sink"),
    "return_statistic=True returns the log-sum-exp (of entmax: tau) too; weights are never stored": (
        "return_lse", "return_attn_probs", "return_softmax_lse", "need_weights", "output_attentions",
    ),
    "packed sequences are attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, ...)": (
        "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k", "cu_seq_q", "cu_seq_k", "varlen",
        "max_seqlen", "max_seqlen_q", "max_seqlen_k", "max_q", "max_k",
    ),
    "paged caches do not exist": ("block_table", "block_tables", "page_table"),
    "tensors are called q, k and v here": ("query", "key", "value"),
}  # fmt: skip
_OWN_HINTS = {
    "attention_varlen": {
        "cu_seqlens_q and cu_seqlens_k say how long packed sequences are": ("lengths", "kv_lengths"),
        "packed sequences have positions of their own: keys from 0 on, the last query at the last key": (
            "q_start", "k_start",
        ),
    },
    "longnet_attention": {
        "that is called causal here": ("is_causal",),
        "its windows are segments, pairs (w, r) of a length and a dilation": (
            "window_size", "window", "sliding_window", "local_window_size", "segment_length", "segment_lengths",
            "dilated_ratio", "dilation", "dilations", "pattern",
        ),
        "it has no masks but causal and lengths, (B,) numbers of tokens of right-padded batches": (
            "attn_mask", "attention_mask", "mask", "mask_mod", "block_mask", "key_padding_mask", "kv_lengths",
        ),
        "it is a mixture of softmaxes; entmax, sinks and others have none": (
            "alpha", "normalizer", "sinks", "sink", "s_aux", "sink_logit", "learnable_sink",
        ),
        "packed sequences have no such attention; right-padded batches have, with lengths": (
            "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k", "cu_seq_q", "cu_seq_k", "varlen",
            "max_seqlen", "max_seqlen_q", "max_seqlen_k", "max_q", "max_k",
        ),
        "a token's branches have a log-sum-exp each, and are mixed already": (
            "return_statistic", "return_lse", "return_attn_probs", "return_softmax_lse", "need_weights",
            "output_attentions",
        ),
        "keys are those of the queries: positions do not matter": ("q_start", "k_start"),
    },
    "merge": {
        "it joins what attention() returned; masks and windows are patterns of those calls": (
            "is_causal", "causal", "pattern", "window_size", "window", "attn_mask", "attention_mask", "mask",
            "block_mask", "lengths", "kv_lengths", "key_padding_mask", "q_start", "k_start", "segments",
        ),
        "it joins what attention() returned, which has been scaled": (
            "scale", "softmax_scale", "sm_scale", "scaling", "qk_scale",
        ),
        "only results of Softmax() merge": ("alpha", "normalizer", "sinks", "sink", "s_aux", "sink_logit"),
        "packed results merge like all others: o (T, H, D) goes with lse (T, H), so pass lse.mT": (
            "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k",
        ),
        "outputs and their log-sum-exps are called o1, lse1, o2 and lse2 here": (
            "q", "k", "v", "query", "key", "value", "out1", "out2", "a", "b", "v_a", "s_a", "v_b", "s_b",
            "prefix_output", "prefix_lse", "suffix_output", "suffix_lse", "lse_a", "lse_b", "out", "lse",
            "block_out", "block_lse",
        ),
    },
    "prepare": {
        "a pattern's metadata is the same for all values; leave it out": ("v", "value"),
        "it prepares patterns; a normalizer, its scale and the statistic belong to the call of attention()": (
            "normalizer", "alpha", "sinks", "sink", "s_aux", "sink_logit", "scale", "softmax_scale", "sm_scale",
            "scaling", "return_statistic", "return_lse", "deterministic", "validate",
        ),
        "packed sequences are not prepared: pass the pattern itself to attention_varlen()": (
            "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k", "cu_seq_q", "cu_seq_k", "varlen",
            "max_seqlen", "max_seqlen_q", "max_seqlen_k", "max_q", "max_k",
        ),
    },
}  # fmt: skip
"""What the function has to say of its own comes before what all have."""


def unknown(function: Callable, names: dict) -> TypeError:
    """For arguments that `function` was given and does not have."""
    own = [parameter for parameter in inspect.signature(function).parameters if parameter != "unknown"]
    known = {**_OWN_HINTS.get(function.__name__, {}), **_HINTS}
    sentences = []
    for name in names:
        hint = next((hint for hint, habits in known.items() if name in habits), None)
        if hint is None:
            near = difflib.get_close_matches(name, own, 1, 0.7)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(own)}"
        sentences.append(f"{name}: {function.__name__}() has no such argument; {hint}")
    return TypeError(". ".join(sentences))
