"""torch.nn modules: sparse attention by index order, elastic attention with its projections, and dense attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import _checks
from ._values import readable
from .attention import attention
from .normalizers import Elastic, Entmax, TopK
from .patterns import Causal, Full, IndexCausal, Pattern
from .reference import reference_attention

_HALF = (torch.float16, torch.bfloat16)


class SplashAttention(nn.Module):
    """Each query attends to its `k_keep` best keys, weighted by alpha-entmax of their scores.

    TopK(k_keep, Entmax(alpha)) under IndexCausal(q_idx, k_idx), or under Causal() where no indices are given. The
    module has no parameters.

    head_dim: of q, k and v. alpha: 1 (softmax) or 1.01 to 2. k_keep: at least 1. sm_scale: factor of the scores,
    1 / sqrt(head_dim) by default.

    Raises ValueError (shapes, ranges), TypeError (dtypes, types) and NoKernelError (nothing compiled for it).
    Sources: Gupta et al. 2021, arXiv 2106.06899 (top-k); Peters, Niculae & Martins 2019 (entmax).
    """

    def __init__(self, head_dim: int, alpha: float = 1.5, k_keep: int = 8, sm_scale: float | None = None):
        super().__init__()
        self.head_dim = _count("head_dim", head_dim)
        self.alpha = alpha
        self.k_keep = _count("k_keep", k_keep)
        self.sm_scale = None if sm_scale is None else _finite("sm_scale", sm_scale)
        self._normalizer()  # refuses a bad alpha here rather than in the first call

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, q_idx: Tensor | None = None, k_idx: Tensor | None = None
    ) -> Tensor:
        """q (B, Hq, Nq, head_dim), k and v (B, Hkv, Nk, head_dim) to (B, Hq, Nq, head_dim), in the dtype of q.

        q_idx, k_idx: integers broadcastable to (B, Hq, Nq) and (B, Hq, Nk), both or none. A key is kept where its index
        is at most the query's; without them j <= i, the last query at the last key.
        """
        if isinstance(q, Tensor) and q.dim() == 4 and q.shape[3] != self.head_dim:
            raise ValueError(f"q: expected head_dim {self.head_dim}, got {q.shape[3]}")
        if (q_idx is None) != (k_idx is None):
            raise ValueError(f"q_idx, k_idx: expected both or none, got {'k_idx' if q_idx is None else 'q_idx'} alone")
        pattern = Causal() if q_idx is None else IndexCausal(q_idx, k_idx)
        return attention(q, k, v, pattern, self._normalizer(), scale=self.sm_scale)

    def _normalizer(self) -> TopK:
        return TopK(self.k_keep, Entmax(self.alpha))

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, alpha={self.alpha}, k_keep={self.k_keep}, sm_scale={self.sm_scale}"


class LazyAttention(nn.Module):
    """Causal self-attention whose weights may be zero: softmax with a learned bias a distance, shifted and cut at 0.

    q, k, v are projections of x, of which q and k are rotated by position: RoPE in halves, where feature f turns with
    feature f + head_dim / 2 at rope_base^(-2 f / head_dim) radians a position. With a = softmax over j <= i of
    q.k / sqrt(head_dim) + attention_biases[h, i - j], the weights are ReLU(a + tau[h] / (i + 1)), not renormalised.
    Keys further than window_size away have no bias and take part like the others.

    dim: features of x, a multiple of num_heads whose quotient is even. window_size: the largest distance with a bias.
    device, dtype: of the projections.

    Parameters: q_proj.weight, k_proj.weight, v_proj.weight, o_proj.weight (dim, dim); tau (num_heads,), starting at -1;
    attention_biases (num_heads, window_size + 1), starting at 0. In a float16 or bfloat16 module tau and
    attention_biases are float32, and remain so under .to() and .half(): bfloat16 numbers near -1 are 0.004 apart, so
    that usual steps would be rounded away. They follow a cast to float64. Under autocast they are read in float32.

    Raises ValueError (shapes, ranges), TypeError (dtypes, types) and NoKernelError (nothing compiled for it).
    Sources: Fu et al. 2026, arXiv 2601.00919; RoPE: Su et al. 2021, in halves as GPT-NeoX has it.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 512,
        rope_base: float = 10000,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.dim = _count("dim", dim)
        self.num_heads = _count("num_heads", num_heads)
        self.window_size = _count("window_size", window_size, least=0)
        if dim % num_heads or dim // num_heads % 2:
            raise ValueError(f"dim: expected a multiple of num_heads {num_heads} with an even quotient, got {dim}")
        self.rope_base = _finite("rope_base", rope_base)
        if rope_base <= 0:
            raise ValueError(f"rope_base: expected a positive number, got {rope_base}")
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(dim, dim, bias=False, device=device, dtype=dtype))
        learned = self.q_proj.weight.new_empty(0, dtype=_at_least_float32(self.q_proj.weight.dtype))
        self.tau = nn.Parameter(learned.new_empty(num_heads))
        self.attention_biases = nn.Parameter(learned.new_empty(num_heads, window_size + 1))
        self._reset_elastic()

    def reset_parameters(self) -> None:
        """Draws the projections as nn.Linear does, sets tau to -1 and attention_biases to 0."""
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            projection.reset_parameters()
        self._reset_elastic()

    def _reset_elastic(self) -> None:
        nn.init.constant_(self.tau, -1.0)
        nn.init.zeros_(self.attention_biases)

    def forward(self, x: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """x (B, N, dim) to (B, N, dim). lengths (B,): of right-padded sequences; rows from there on are 0."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
        if x.dim() != 3 or x.shape[2] != self.dim:
            raise ValueError(f"x: expected shape (batch, length, {self.dim}), got {tuple(x.shape)}")
        q, k, v = (project(x).unflatten(2, (self.num_heads, -1)) for project in (self.q_proj, self.k_proj, self.v_proj))
        rates = _rotary_rates(q.shape[3], self.rope_base, _at_least_float32(q.dtype), x.device)
        q, k, v = (t.transpose(1, 2) for t in (_rotate(q, rates), _rotate(k, rates), v))
        out = attention(q, k, v, Causal(), Elastic(self.tau, self.attention_biases), lengths=lengths)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, window_size={self.window_size}, rope_base={self.rope_base}"

    def _apply(self, fn, recurse=True):
        # .to(), .half() and their like: tau and attention_biases follow all but a cast to 16 bits.
        learned = {id(t) for p in (self.tau, self.attention_biases) for t in (p, p.grad) if t is not None}

        def apply(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) in learned and moved.dtype in _HALF:
                return tensor.to(moved.device, torch.float32)
            return moved

        return super()._apply(apply, recurse)

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        # Checkpoints of flash-lazy-attention hold the rates of RoPE beside the parameters that both have.
        rates = state_dict.pop(f"{prefix}rope.inv_freq", None)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if rates is not None and readable(rates):
            own = _rotary_rates(self.dim // self.num_heads, self.rope_base, torch.float32, rates.device)
            if rates.shape != own.shape or not torch.allclose(rates.float(), own, rtol=1e-2):
                errors.append(f"{prefix}rope.inv_freq: expected the rates of rope_base {self.rope_base}, got others")


class FlashAttention(nn.Module):
    """Exact softmax attention in one fused pass, without parameters.

    Raises as attention() does. Source: Dao et al. 2022.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        """q (B, Hq, Nq, D), k and v (B, Hkv, Nk, D) to (B, Hq, Nq, D), in the dtype of q.

        causal: keys after the query are left out; the last query stands at the last key.
        """
        return attention(q, k, v, _full_or_causal(causal))


class StandardAttention(nn.Module):
    """What FlashAttention computes, with dense scores and Torch operations only: a reference to compare with.

    Its memory grows with Nq * Nk, and each operation rounds to the dtype of q.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        """Shapes, dtypes and `causal` as those of FlashAttention."""
        _checks.check_inputs(q, k, v)
        return reference_attention(q, k, v, _full_or_causal(causal), dtype=None)[0]


def _full_or_causal(causal: bool) -> Pattern:
    if not isinstance(causal, bool):
        raise TypeError(f"causal: expected a bool, got {type(causal).__name__}")
    return Causal() if causal else Full()


def _rotary_rates(dim: int, base: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(dim / 2,): radians a position."""
    return base ** (torch.arange(0, dim, 2, dtype=dtype, device=device) / -dim)


def _rotate(x: Tensor, rates: Tensor) -> Tensor:
    """x (B, N, H, D), turned by position; computed in the dtype of the rates (D / 2,)."""
    angles = torch.arange(x.shape[1], dtype=rates.dtype, device=x.device)[:, None, None] * rates
    cos, sin = angles.cos(), angles.sin()
    first, second = x.to(rates.dtype).chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _count(name: str, number: int, least: int = 1) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name}: expected an int, got {type(number).__name__}")
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def _finite(name: str, number: float) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(number).__name__}")
    if not -math.inf < number < math.inf:
        raise ValueError(f"{name}: expected a finite number, got {number}")
    return number
