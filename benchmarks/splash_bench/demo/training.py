"""Two models with equal first weights, one on splash and one on the reference, trained on equal batches."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from ..model import Attend, ByteTransformer


@dataclass
class Run:
    """One of the two models, its losses and its time."""

    model: ByteTransformer
    attend: Attend
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self):
        # Adam divides by the gradient's own size, which turns rounding noise in tiny gradients into whole steps. The
        # larger epsilon keeps two runs that differ by rounding alone close together.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, eps=1e-5, weight_decay=0.01)

    def step(self, batch: torch.Tensor) -> None:
        begin = time.perf_counter()
        logits = self.model(batch[:, :-1], self.attend)
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        self.seconds += time.perf_counter() - begin


@dataclass(frozen=True)
class Pair:
    splash: Run
    reference: Run

    def differences(self) -> list[float]:
        """|loss of splash - loss of the reference|, step by step."""
        return [abs(a - b) for a, b in zip(self.splash.losses, self.reference.losses, strict=True)]


def train(
    batches: torch.Tensor, splash: Attend, reference: Attend, seed: int, progress: Callable[[Pair], None]
) -> Pair:
    """Trains both models on batches (steps, B, N + 1); `progress` is called after every step."""
    torch.manual_seed(seed)
    model = ByteTransformer(length=batches.shape[-1] - 1)
    pair = Pair(Run(model, splash), Run(copy.deepcopy(model), reference))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small operations wait longer for a second thread than it saves
    try:
        for batch in batches:
            pair.splash.step(batch)
            pair.reference.step(batch)
            progress(pair)
    finally:
        torch.set_num_threads(threads)
    return pair
