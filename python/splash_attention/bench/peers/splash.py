"""splash itself, and splash without sparsity."""

from __future__ import annotations

from functools import partial

from ... import attention as splash_attention
from ...attention import prepare
from ...patterns import Causal, Full
from ..longnet import LongNet
from .base import Peer


class Splash(Peer):
    name = "splash"
    about = "this library"

    def refuses(self, case):
        return ""

    def prepare(self, case):
        if isinstance(case.pattern, LongNet):
            from ...longnet import longnet_attention

            return partial(longnet_attention, segments=case.pattern.segments, causal=case.causal)
        pattern = prepare(case.pattern, case.q, case.k)
        return lambda q, k, v: splash_attention(q, k, v, pattern, case.normalizer)


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
