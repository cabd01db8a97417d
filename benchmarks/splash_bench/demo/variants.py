"""The kinds of attention that the demo trains, each on splash and on the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from splash_attention import Causal, Entmax, Normalizer, Pattern, SlidingWindow, Softmax, attention
from splash_attention.reference import reference_attention


@dataclass(frozen=True)
class Variant:
    name: str
    pattern: Pattern
    normalizer: Normalizer

    def splash(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q, k, v, self.pattern, self.normalizer)

    def reference(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Dense and in float64; only the result is rounded to q's dtype."""
        return reference_attention(q, k, v, self.pattern, self.normalizer)[0].to(q.dtype)

    def same_precision(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Dense, by PyTorch operations in q's dtype: what splash's error is measured against."""
        return reference_attention(q, k, v, self.pattern, self.normalizer, dtype=None)[0]


VARIANTS = (
    Variant("dense softmax", Causal(), Softmax()),
    Variant("sliding window", SlidingWindow.causal(64), Softmax()),
    Variant("entmax 1.5", Causal(), Entmax(1.5)),
)
