"""The weights that an attention call used, read out through the call itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..model import Attend, ByteTransformer


@dataclass(frozen=True)
class Weights:
    """Attention weights (layers, heads, N, N) of one text and which of them the pattern keeps, (N, N) bool."""

    weights: torch.Tensor
    kept: torch.Tensor

    def zero_share(self) -> float:
        """Share of exactly zero weights among the kept scores."""
        return (self.weights[..., self.kept] == 0).double().mean().item()


def read_weights(attend: Attend, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(B, H, N, N): with the columns of the identity as values, the output is the weights themselves."""
    batch, heads, length, dim = k.shape
    columns = torch.eye(length, dtype=k.dtype, device=k.device).split(dim, dim=1)
    outputs = []
    for part in columns:
        width = part.shape[1]
        v = torch.nn.functional.pad(part, (0, dim - width)).expand(batch, heads, length, dim)
        outputs.append(attend(q, k, v)[..., :width])
    return torch.cat(outputs, dim=-1)


@torch.no_grad()
def record_calls(model: ByteTransformer, attend: Attend, tokens: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """The (q, k, v) of every layer for tokens (B, N)."""
    calls = []

    def recording(q, k, v):
        calls.append((q, k, v))
        return attend(q, k, v)

    model(tokens, recording)
    return calls


@torch.no_grad()
def collect(model: ByteTransformer, attend: Attend, tokens: torch.Tensor, kept: torch.Tensor) -> Weights:
    """The weights of every layer and head for one text, tokens (1, N)."""
    layers = [read_weights(attend, q, k)[0] for q, k, _ in record_calls(model, attend, tokens)]
    return Weights(torch.stack(layers), kept)
