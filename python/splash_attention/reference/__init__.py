"""The oracle: attention by dense masks and closed forms, written apart from the kernels, with Torch operations only.

Nothing here is fast, and nothing here is shared with the C++ code: masks are the index formulas of the pattern table,
entmax is solved by sorting or bisection, gradients come from autograd.
"""

from __future__ import annotations

from .attention import reference_attention
from .masks import dense_mask
from .normalizers import entmax, softmax

__all__ = ["dense_mask", "entmax", "reference_attention", "softmax"]
