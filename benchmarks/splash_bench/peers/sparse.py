"""torch.sparse: sampled scores in CSR, softmax of the rows, a sparse product."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..longnet import LongNet
from .base import Peer, dense_scores_refusal


class TorchSparse(Peer):
    name = "torch-sparse"
    about = "torch.sparse: sampled_addmm in CSR, softmax of the stored values, a sparse product; head by head"

    def refuses(self, case):
        if isinstance(case.pattern, LongNet):
            return "LongNet is no mask"
        if case.problem.normalizer.label != "softmax":
            return "computes softmax only"
        if case.q.dtype not in (torch.float32, torch.float64):
            return "takes float32 and float64 only"
        return dense_scores_refusal(case, 1)  # the dense mask that the CSR form is made from

    def prepare(self, case):
        torch.sparse.check_sparse_tensor_invariants.disable()
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        sizes = case.sizes
        group, scale = sizes.heads // sizes.kv_heads, sizes.head_dim**-0.5
        masks = case.pattern.to_dense(sizes.rows, sizes.seq_len, sizes.heads, device=case.device)
        masks = [[_CSR(head, case.q.dtype) for head in entry] for entry in masks]

        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            outs = []
            for entry in range(sizes.batch):
                heads = masks[entry % len(masks)]
                outs += [
                    heads[head % len(heads)].attend(
                        q[entry, head], k[entry, head // group], v[entry, head // group], scale
                    )
                    for head in range(sizes.heads)
                ]
            return torch.stack(outs).view(q.shape)

        return call


class _CSR:
    """The kept scores of one head, (N, N) bool, as a CSR pattern."""

    def __init__(self, mask: Tensor, dtype: torch.dtype):
        self.mask = mask.to(dtype).to_sparse_csr()
        self.crow, self.col = self.mask.crow_indices(), self.mask.col_indices()
        self.row = torch.repeat_interleave(torch.arange(len(mask), device=mask.device), self.crow.diff())

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        scores = torch.sparse.sampled_addmm(self.mask, q, k.t(), beta=0, alpha=scale).values()
        top = scores.new_full((len(q),), -torch.inf).scatter_reduce(0, self.row, scores.detach(), "amax")
        weights = (scores - top[self.row]).exp()
        weights = weights / torch.zeros_like(top).index_add(0, self.row, weights)[self.row]
        return torch.sparse_csr_tensor(self.crow, self.col, weights, self.mask.shape) @ v
