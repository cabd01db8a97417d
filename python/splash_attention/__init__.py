"""Sparse and dense attention with exact softmax and entmax on the CPU and on NVIDIA GPUs."""

from . import _library

_library.load()

from . import _vmap, ops  # noqa: E402, F401
from ._errors import NoKernelError  # noqa: E402
from .attention import attention, attention_varlen, merge, prepare  # noqa: E402
from .normalizers import Elastic, Entmax, Normalizer, Softmax, TopK  # noqa: E402
from .patterns import And, BlockMask, Causal, Full, Pattern, SlidingWindow  # noqa: E402

__all__ = [
    "And",
    "BlockMask",
    "Causal",
    "Elastic",
    "Entmax",
    "Full",
    "NoKernelError",
    "Normalizer",
    "Pattern",
    "SlidingWindow",
    "Softmax",
    "TopK",
    "attention",
    "attention_varlen",
    "merge",
    "prepare",
]
