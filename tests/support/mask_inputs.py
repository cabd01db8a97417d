"""What patterns that are masks are made of, for the tests of their metadata: drawn masks, sparse rows, blocks."""

import torch


def draw(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < 0.5


def sparse(rows):
    """Every row keeps one or two columns."""
    row = torch.arange(rows)
    return torch.arange(rows + 1) * 2, torch.stack([row, row * 7 % rows], 1).flatten()


def blocks(n):
    return (n + 63) // 64
