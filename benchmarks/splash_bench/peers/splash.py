"""splash itself, and splash without sparsity."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from splash_attention import Causal, Full, attention_varlen, longnet_attention, prepare
from splash_attention import attention as splash_attention

from ..case import Case
from ..longnet import LongNet
from ..packed import Packed
from .base import Call, Peer


class Splash(Peer):
    name = "splash"
    about = "this library"

    def __init__(self, deterministic: bool | None = None):
        self.deterministic = deterministic

    def refuses(self, case):
        return ""

    def prepare(self, case):
        options = {"deterministic": self.deterministic}
        if isinstance(case.pattern, LongNet):
            return partial(longnet_attention, segments=case.pattern.segments, causal=case.causal, **options)
        if isinstance(case.pattern, Packed):
            return _packed(case, **options)
        pattern = prepare(case.pattern, case.q, case.k)
        return lambda q, k, v: splash_attention(q, k, v, pattern, case.normalizer, **options)


def _packed(case: Case, **options) -> Call:
    of_tokens = packed_call(case, **options)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return of_tokens(*(t[0].transpose(0, 1) for t in (q, k, v))).transpose(0, 1)[None]

    return call


def packed_call(case: Case, **options) -> Call:
    """Of q, k and v as tokens (T, H, D). options: of attention_varlen()."""
    pattern = Causal() if case.causal else Full()
    ends, longest = case.pattern.ends_on(case.device), max(case.pattern.lengths)
    return partial(
        attention_varlen,
        cu_seqlens_q=ends,
        cu_seqlens_k=ends,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        pattern=pattern,
        normalizer=case.normalizer,
        **options,
    )


class SplashDense(Peer):
    name = "splash-dense"
    about = "this library's dense softmax, causal where the pattern is"

    def refuses(self, case):
        return ""

    def computes(self, case):
        same = case.dense and case.problem.normalizer.label == "softmax"
        return "same" if same else "dense softmax"

    def prepare(self, case):
        pattern = Causal() if case.causal else Full()
        return lambda q, k, v: splash_attention(q, k, v, pattern)
