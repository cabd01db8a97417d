"""The normalizers that a problem can ask for, with their learned parameters as tensors of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splash_attention import normalizers
from splash_attention.patterns import Pattern

NORMALIZERS = ("softmax", "softmax-sink", "entmax", "elastic", "top-k")


@dataclass(frozen=True)
class Choice:
    """name: of NORMALIZERS. alpha: of entmax, and of what top-k goes on with (1 is softmax). k: of top-k."""

    name: str = "softmax"
    alpha: float = 1.0
    k: int = 64

    @property
    def label(self) -> str:
        then = "softmax" if self.alpha == 1 else f"entmax{self.alpha:g}"
        return {"entmax": then, "top-k": f"top{self.k} {then}"}.get(self.name, self.name)

    def words(self) -> list[str]:
        """The options that ask for it."""
        numbers = {
            "entmax": ["--alpha", f"{self.alpha:g}"],
            "top-k": ["--k", str(self.k), "--alpha", f"{self.alpha:g}"],
        }
        return ["--normalizer", self.name, *numbers.get(self.name, [])]

    def parameters(self, heads: int, pattern: Pattern, generator: torch.Generator, dtype: torch.dtype) -> list[Tensor]:
        """Random values of the learned parameters; elastic's bias is as long as the pattern's window."""

        def draw(*shape):
            values = torch.randn(shape, generator=generator, device=generator.device) * 0.2
            return values.to(torch.promote_types(dtype, torch.float32))

        if self.name == "softmax-sink":
            return [draw(heads).requires_grad_()]
        if self.name == "elastic":
            left = pattern.band()[0] if pattern.band() else None
            return [(draw(heads) - 1).requires_grad_(), draw(heads, 64 if left is None else left + 1).requires_grad_()]
        return []

    def build(self, parameters: list[Tensor]):
        if self.name == "softmax":
            return normalizers.Softmax()
        if self.name == "softmax-sink":
            return normalizers.Softmax(sink_logit=parameters[0])
        if self.name == "elastic":
            return normalizers.Elastic(*parameters)
        if self.name == "entmax":
            return normalizers.Entmax(self.alpha)
        return normalizers.TopK(self.k, normalizers.Softmax() if self.alpha == 1 else normalizers.Entmax(self.alpha))
