"""Unfused PyTorch operations over N x N scores, for every pattern and normalizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..longnet import LongNet
from .base import NOT_INSTALLED, Peer, dense_scores_refusal


class TorchDense(Peer):
    name = "torch-dense"
    about = "unfused PyTorch, N x N scores in memory; entmax by the package entmax"

    def refuses(self, case):
        if isinstance(case.pattern, LongNet):
            return "LongNet is no mask"
        if _alpha(case) != 1 and not _entmax_package():
            return f"entmax: {NOT_INSTALLED}"
        return dense_scores_refusal(case, 4)

    def prepare(self, case):
        sizes = case.sizes
        mask = case.pattern.to_dense(sizes.rows, sizes.seq_len, sizes.heads, device=case.device)
        group = sizes.heads // sizes.kv_heads
        scale = sizes.head_dim**-0.5

        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if group > 1:
                k, v = (t.repeat_interleave(group, 1) for t in (k, v))
            scores = (q @ k.transpose(-1, -2)) * scale
            return _weights(scores, mask, case).to(v.dtype) @ v

        return call


def _alpha(case) -> float:
    choice = case.problem.normalizer
    return choice.alpha if choice.name in ("entmax", "top-k") else 1


def _entmax_package():
    try:
        import entmax
    except ImportError:
        return None
    return entmax


def _weights(scores: Tensor, mask: Tensor, case) -> Tensor:
    choice = case.problem.normalizer
    scores = scores.masked_fill(~mask, -torch.inf)
    if choice.name == "softmax-sink":
        sink = case.parameters[0][:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores.float(), sink], -1).softmax(-1)[..., :-1]
    if choice.name == "elastic":
        tau, bias = case.parameters
        length = scores.shape[-1]
        i = torch.arange(length, device=scores.device)[length - scores.shape[-2] :, None]
        distance = i - torch.arange(length, device=scores.device)
        bias = F.pad(bias, (0, max(0, length - bias.shape[1])))[:, distance.clamp(min=0)]
        shift = tau[:, None, None] / (i + 1)
        return (((scores + bias).softmax(-1)) + shift).relu() * mask
    if choice.name == "top-k":
        kth = scores.topk(min(choice.k, scores.shape[-1]), -1).values[..., -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    return _simplex(scores, _alpha(case))


def _simplex(scores: Tensor, alpha: float) -> Tensor:
    if alpha == 1:
        return scores.softmax(-1)
    package = _entmax_package()
    if alpha in (1.5, 2):
        return {1.5: package.entmax15, 2: package.sparsemax}[alpha](scores.float(), dim=-1)
    return package.entmax_bisect(scores.float(), alpha, dim=-1)
