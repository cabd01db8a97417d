"""The back ends of torch.nn.functional.scaled_dot_product_attention."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .base import Peer


class SDPA(Peer):
    """backend: a name of SDPBackend, None for Torch's own choice. causal: always; else where the pattern is."""

    def __init__(self, name: str, backend: str | None, causal: bool = False):
        self.name, self.backend, self.causal = name, backend, causal
        which = "always causal" if causal else "causal where the pattern is"
        self.about = f"torch SDPA, {backend or 'the back end that Torch chooses'}; dense, {which}"

    def refuses(self, case):
        if self._causal(case) and not case.sizes.square:
            return "its causal mask gives the first query the first key"
        if self.backend is None:
            return ""
        if case.device.type == "cpu" and self.backend != "FLASH_ATTENTION":
            return "a CUDA back end"
        if case.device.type == "cuda" and self.backend != "EFFICIENT_ATTENTION" and case.q.dtype is torch.float32:
            return "takes float16 and bfloat16 only"
        return ""

    def computes(self, case):
        if self.causal and not case.causal:
            return "causal softmax"
        return "same" if case.dense and case.problem.normalizer.label == "softmax" else "dense softmax"

    def _causal(self, case) -> bool:
        """One query at the end sees every key."""
        return (self.causal or case.causal) and case.sizes.rows > 1

    def prepare(self, case):
        causal, grouped = self._causal(case), case.sizes.heads != case.sizes.kv_heads

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with sdpa_kernel(getattr(SDPBackend, self.backend)) if self.backend else contextlib.nullcontext():
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

        return call
