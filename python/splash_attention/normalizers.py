"""HOW scores become weights: one frozen dataclass each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ._errors import NoKernelError


class Normalizer:
    """Base of all normalizers. A new one sets `name` and `saved` and lists its numbers in `floats`."""

    name: ClassVar[str]
    saved: ClassVar[int]
    """How many rows of statistics the forward keeps for the backward beside the public one."""

    def floats(self) -> list[float]:
        return []

    def encode(self) -> tuple[str, list[float]]:
        """The name and the numbers that the operators take."""
        return self.name, self.floats()


@dataclass(frozen=True)
class Softmax(Normalizer):
    """p = softmax of the kept scores. Statistic: their natural log-sum-exp, -inf in a row that keeps nothing.

    `sink_logit` (Hq,) is reserved: NoKernelError for now.
    """

    name: ClassVar[str] = "softmax"
    saved: ClassVar[int] = 0

    sink_logit: torch.Tensor | None = None

    def __post_init__(self):
        if self.sink_logit is not None:
            raise NoKernelError("Softmax: sink_logit has no kernels in this version; leave it None")


@dataclass(frozen=True)
class Entmax(Normalizer):
    """alpha-entmax of the kept scores (Peters, Niculae & Martins 2019): p_j = [(alpha - 1) s_j - tau]+^(1/(alpha - 1)).

    alpha is in [1.01, 2], or 1 for softmax; ValueError otherwise. Statistic: tau, +inf in a row that keeps nothing (for
    alpha 1 that of Softmax).
    """

    name: ClassVar[str] = "entmax"
    saved: ClassVar[int] = 2

    alpha: float = 1.5

    def __post_init__(self):
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)):
            raise TypeError(f"alpha: expected a number, got {type(self.alpha).__name__}")
        if not (self.alpha == 1 or 1.01 <= self.alpha <= 2):
            raise ValueError(f"alpha: expected 1 (softmax) or a number from 1.01 to 2, got {self.alpha}")

    def floats(self) -> list[float]:
        return [float(self.alpha)]

    def encode(self) -> tuple[str, list[float]]:
        return (Softmax.name, []) if self.alpha == 1 else (self.name, self.floats())


NORMALIZERS: dict[str, type[Normalizer]] = {kind.name: kind for kind in (Softmax, Entmax)}


def as_normalizer(short: Normalizer | str | float) -> Normalizer:
    """A normalizer from its short form: "softmax", or the alpha of an Entmax."""
    if isinstance(short, Normalizer):
        return short
    if isinstance(short, str):
        if short == Softmax.name:
            return Softmax()
        raise ValueError(
            f'normalizer: expected "softmax", a number (the alpha of Entmax) or a normalizer, got {short!r}'
        )
    if isinstance(short, (int, float)) and not isinstance(short, bool):
        return Entmax(short)
    raise TypeError(f"normalizer: expected a normalizer, a string or a number, got {type(short).__name__}")
