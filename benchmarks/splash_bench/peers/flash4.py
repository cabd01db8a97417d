"""flash-attn-4 (CuTe DSL): dense, causal and sliding windows."""

from __future__ import annotations

import torch

from splash_attention.patterns import Pattern

from .base import Peer


class Flash4(Peer):
    name = "fa4"
    about = "flash-attn-4 (flash_attn.cute): dense, causal, windows; CUDA"
    package = "flash_attn.cute"

    def refuses(self, case):
        if case.device.type != "cuda":
            return "needs CUDA"
        if case.q.dtype not in (torch.float16, torch.bfloat16):
            return "takes float16 and bfloat16 only"
        if case.problem.normalizer.label != "softmax":
            return "computes softmax only"
        band = case.pattern.band() if isinstance(case.pattern, Pattern) else None
        return "" if band is not None else "has bands only"

    def prepare(self, case):
        from flash_attn.cute import flash_attn_func

        left, right = case.pattern.band()
        causal = (left, right) == (None, 0)
        window = (None, None) if causal else (left, right)

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # Its layout is (B, N, H, D), in any strides.
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            out = flash_attn_func(q, k, v, causal=causal, window_size=window)
            return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

        return call
