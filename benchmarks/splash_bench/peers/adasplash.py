"""AdaSplash's Triton kernels (Goncalves et al. 2025): entmax, and lazy attention."""

from __future__ import annotations

from importlib import import_module

from .base import Peer


class Adasplash(Peer):
    name = "adasplash"
    about = "the package adasplash: entmax over dense scores, and its lazy attention; CUDA"
    package = "adasplash"

    def refuses(self, case):
        if case.device.type != "cuda":
            return "Triton kernels need CUDA"
        if case.sizes.heads != case.sizes.kv_heads:
            return "has no grouped heads"
        if not case.sizes.square:
            return "has as many queries as keys"
        choice = case.problem.normalizer
        if choice.name == "entmax":
            return "" if case.dense else "has dense patterns only"
        if choice.name == "elastic":
            lazy = case.problem.family.name == "lazy"
            if not lazy:
                return "its lazy attention has a causal window only"
            return (
                ""
                if hasattr(import_module("adasplash"), "lazy_attention_triton")
                else "this release has no lazy attention"
            )
        return f"has no {choice.label}"

    def prepare(self, case):
        choice = case.problem.normalizer
        if choice.name == "elastic":
            from adasplash import lazy_attention_triton

            tau, bias = case.parameters
            window = case.problem.numbers["window"]
            return lambda q, k, v: lazy_attention_triton(q, k, v, bias, tau, window_size=window)
        from adasplash import adasplash

        return lambda q, k, v: adasplash(q, k, v, alpha=choice.alpha, is_causal=case.causal)
