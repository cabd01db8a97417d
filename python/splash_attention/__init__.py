"""Sparse and dense attention with exact softmax and entmax on the CPU and on NVIDIA GPUs."""

from . import _library
from ._version import __version__ as __version__

_library.load()

from . import _vmap, ops  # noqa: E402, F401
from ._errors import NoKernelError  # noqa: E402
from ._explain import explain  # noqa: E402
from .attention import attention, attention_varlen, merge, prepare  # noqa: E402
from .longnet import longnet_attention  # noqa: E402
from .modules import FlashAttention, LazyAttention, SplashAttention, StandardAttention  # noqa: E402
from .normalizers import Elastic, Entmax, Normalizer, Softmax, TopK  # noqa: E402
from .patterns import (  # noqa: E402
    And,
    BigBird,
    BlockDiagonal,
    BlockMask,
    Causal,
    Dilated,
    ElementMask,
    Fixed,
    Full,
    IndexCausal,
    Longformer,
    Pattern,
    SlidingWindow,
    Streaming,
    Strided,
    top_k_blocks,
)
from .rows import entmax, entmax15, sparsemax  # noqa: E402

__all__ = [
    "And",
    "BigBird",
    "BlockDiagonal",
    "BlockMask",
    "Causal",
    "Dilated",
    "Elastic",
    "ElementMask",
    "Entmax",
    "Fixed",
    "FlashAttention",
    "Full",
    "IndexCausal",
    "LazyAttention",
    "Longformer",
    "NoKernelError",
    "Normalizer",
    "Pattern",
    "SlidingWindow",
    "Softmax",
    "SplashAttention",
    "StandardAttention",
    "Streaming",
    "Strided",
    "TopK",
    "attention",
    "attention_varlen",
    "entmax",
    "entmax15",
    "explain",
    "longnet_attention",
    "merge",
    "prepare",
    "sparsemax",
    "top_k_blocks",
]
