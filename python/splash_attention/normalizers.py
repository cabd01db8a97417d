"""HOW scores become weights: one frozen dataclass each. The mathematics is in docs/normalizers.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .patterns import Pattern


class EncodedNormalizer(NamedTuple):
    """A normalizer as the operators take it: its name, its numbers and its learned parameters, as they were given."""

    name: str
    floats: list[float]
    parameters: list[Tensor]


_PLAIN_SOFTMAX = EncodedNormalizer("softmax", [], [])


class Normalizer:
    """Base of all normalizers: frozen dataclasses. Those that hold tensors compare by identity."""

    def encode(self) -> EncodedNormalizer:
        """What the operators take."""
        raise NotImplementedError

    def check(self, pattern: Pattern, heads: int) -> None:
        """Raises ValueError where it cannot be used with this pattern or this number of query heads."""


@dataclass(frozen=True, eq=False)
class Softmax(Normalizer):
    """p = softmax of the kept scores. Statistic: their natural log-sum-exp, -inf in a row that keeps nothing.

    sink_logit: (Hq,), any floating dtype, used in float32 (float64 for float64 inputs) and not multiplied by the scale:
        one more logit in the denominator of each row of its head, so that the weights sum to less than 1. It takes no
        part in the statistic, and it gets a gradient. TypeError where it is no floating tensor, ValueError for another
        shape.

    Dao et al. 2022; sinks: Xiao et al. 2024, a learned logit for them: gpt-oss (OpenAI 2025).
    """

    sink_logit: Tensor | None = None

    def __post_init__(self):
        if self.sink_logit is not None:
            _check_parameter("sink_logit", self.sink_logit, ("Hq",))

    def __eq__(self, other):
        if not isinstance(other, Softmax):
            return NotImplemented
        return self is other or (self.sink_logit is None and other.sink_logit is None)

    def __hash__(self):
        return hash(Softmax) if self.sink_logit is None else id(self)

    def encode(self):
        if self.sink_logit is None:
            return _PLAIN_SOFTMAX
        return EncodedNormalizer("softmax_sink", [], [self.sink_logit])

    def check(self, pattern, heads):
        if self.sink_logit is not None:
            _check_heads("sink_logit", self.sink_logit, heads)


@dataclass(frozen=True)
class Entmax(Normalizer):
    """alpha-entmax of the kept scores (Peters, Niculae & Martins 2019): p_j = [(alpha - 1) s_j - tau]+^(1/(alpha - 1)).

    alpha is in [1.01, 2], or 1 for softmax; ValueError otherwise. Statistic: tau, +inf in a row that keeps nothing (for
    alpha 1 that of Softmax).
    """

    alpha: float = 1.5

    def __post_init__(self):
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)):
            raise TypeError(f"alpha: expected a number, got {type(self.alpha).__name__}")
        if not (self.alpha == 1 or 1.01 <= self.alpha <= 2):
            raise ValueError(f"alpha: expected 1 (softmax) or a number from 1.01 to 2, got {self.alpha}")

    def encode(self):
        if self.alpha == 1:
            return _PLAIN_SOFTMAX
        return EncodedNormalizer("entmax", [float(self.alpha)], [])


@dataclass(frozen=True, eq=False)
class Elastic(Normalizer):
    """Elastic softmax (Fu et al. 2026, arXiv 2601.00919): a = softmax(s + b), weights ReLU(a + tau / (i + 1)).

    The weights are not normalized again.

    tau: (Hq,); -1, its usual start, removes weights below the mean of a causal row. bias: (Hq, T): bias[h, i - j] is
        added to the score of query i and key j for 0 <= i - j < T, 0 beyond; T may be 0, None is no bias. Both are used
        in float32 (float64 for float64 inputs) and get gradients.

    Only with patterns that keep no key after the query (ValueError elsewhere). Rows at positions i < 0 count as rows
    that keep nothing. Statistic: the natural log-sum-exp of s + b over the kept keys, -inf in a row that keeps nothing.
    Compares by identity. TypeError where one is no floating tensor, ValueError for another shape.
    """

    tau: Tensor
    bias: Tensor | None = None

    def __post_init__(self):
        _check_parameter("tau", self.tau, ("Hq",))
        if self.bias is not None:
            _check_parameter("bias", self.bias, ("Hq", "T"))

    def encode(self):
        bias = self.tau.new_zeros((self.tau.shape[0], 0)) if self.bias is None else self.bias
        return EncodedNormalizer("elastic", [], [self.tau, bias])

    def check(self, pattern, heads):
        _check_heads("tau", self.tau, heads)
        if self.bias is not None:
            _check_heads("bias", self.bias, heads)
        if not pattern.is_causal():
            raise ValueError(
                f"pattern: Elastic needs one that keeps no key after the query, got {pattern!r}; "
                f"allowed is for example {pattern!r} & Causal()"
            )


@dataclass(frozen=True)
class TopK(Normalizer):
    """The k largest kept scores of a row, exactly, then `then` over those alone: Softmax() or Entmax(alpha).

    Of equal scores the keys with the smaller j are taken; a row with fewer than k kept keys keeps them all. The
    selection is constant in the gradient. Statistic: that of `then`, over the selected keys. `then` also takes a number
    alpha or "softmax". ValueError for k < 1 and for any other normalizer, a Softmax with a sink among them.

    Gupta et al. 2021, arXiv 2106.06899.
    """

    k: int
    then: Normalizer | str | float = "softmax"

    def __post_init__(self):
        if isinstance(self.k, bool) or not isinstance(self.k, int):
            raise TypeError(f"k: expected an int, got {type(self.k).__name__}")
        if self.k < 1:
            raise ValueError(f"k: expected at least 1, got {self.k}")
        object.__setattr__(self, "then", as_normalizer(self.then))
        if self.then != Softmax() and not isinstance(self.then, Entmax):
            raise ValueError(f"then: expected Softmax() without sink_logit or Entmax(alpha), got {self.then!r}")

    def encode(self):
        name, floats, parameters = self.then.encode()
        return EncodedNormalizer(f"top_k_{name}", [*floats, float(min(self.k, 2**31))], parameters)


def as_normalizer(short: Normalizer | str | float) -> Normalizer:
    """A normalizer from its short form: "softmax", or the alpha of an Entmax."""
    if isinstance(short, Normalizer):
        return short
    if isinstance(short, str):
        if short == "softmax":
            return Softmax()
        raise ValueError(
            f'normalizer: expected "softmax", a number (the alpha of Entmax) or a normalizer, got {short!r}'
        )
    if isinstance(short, (int, float)) and not isinstance(short, bool):
        return Entmax(short)
    raise TypeError(f"normalizer: expected a normalizer, a string or a number, got {type(short).__name__}")


def _check_parameter(name: str, tensor: Tensor, shape: tuple[str, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor ({', '.join(shape)}), got {type(tensor).__name__}")
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating dtype, got {tensor.dtype}")
    if tensor.dim() != len(shape):
        raise ValueError(f"{name}: expected shape ({', '.join(shape)}), got {tuple(tensor.shape)}")


def _check_heads(name: str, tensor: Tensor, heads: int) -> None:
    if tensor.shape[0] != heads:
        raise ValueError(f"{name}: expected one row a query head, {heads}, got shape {tuple(tensor.shape)}")
