"""A GPT over bytes, trained once for each peer from the same first weights on the same batches.

What differs is who computes the attention, and how it rounds: loss curves of peers that compute the same lie on each
other. The text is the source of Python's own library (corpus.py), of which the last tenth is held out.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from . import check, corpus, report
from .case import Case
from .choices import Choice
from .families import FAMILIES
from .model import ByteTransformer
from .peers import Peer
from .problems import Problem
from .sizes import Sizes

PATTERNS = ("causal", "streaming")
PEERS = {
    "causal": {"cpu": ["splash", "sdpa"], "cuda": ["splash", "sdpa-cudnn"]},
    "streaming": {"cpu": ["splash", "torch-dense"], "cuda": ["splash", "flex"]},
}
PEAK_RATE, WARM_UP, DECAY = 6e-4, 0.05, 0.1  # of the steps; of the peak at the end
HELD_OUT, HELD_OUT_BATCHES = 0.1, 8
UNTIMED = 5  # first steps, which compile and allocate
SMOOTH = 50  # steps of which a mean is compared
COLUMNS = {
    "problem": "problem",
    "peer": "peer",
    "parameters": "parameters",
    "steps": "steps",
    "first_loss": "first loss",
    "last_loss": "last loss",
    "held_out_loss": "held-out loss",
    "apart": "apart",
    "step_ms": "ms a step",
    "tokens_s": "tokens/s",
    "splash_speedup": "splash is x times as fast",
    "relative_error": "error",
}


@dataclass(frozen=True)
class Setup:
    """attention: of one layer, for a batch; its seed is that of the first weights and the batches."""

    attention: Problem
    layers: int
    steps: int

    @property
    def sizes(self) -> Sizes:
        return self.attention.sizes

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.sizes.batch * self.sizes.seq_len

    def model(self, device: torch.device) -> ByteTransformer:
        """With the first weights, the same ones on every device."""
        torch.manual_seed(self.attention.seed)
        sizes = self.sizes
        return ByteTransformer(sizes.seq_len, sizes.heads * sizes.head_dim, sizes.heads, self.layers).to(device)


@dataclass
class Curve:
    """Losses and seconds of every step of one peer, in nats a byte."""

    peer: str
    parameters: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    held_out: float = 0
    error: float | None = None

    @property
    def step_seconds(self) -> float:
        """The median, without the first steps."""
        return statistics.median(self.seconds[min(UNTIMED, len(self.seconds) // 2) :])

    def means(self) -> list[float]:
        """Of the losses of SMOOTH steps in a row, of all where there are fewer."""
        width = min(SMOOTH, len(self.losses))
        return torch.tensor(self.losses, dtype=torch.float64).unfold(0, width, 1).mean(-1).tolist()


def setup(
    pattern: str,
    sink: int,
    window: int,
    batch: int,
    seq_len: int,
    layers: int,
    heads: int,
    width: int,
    steps: int,
    seed: int,
    dtype: str,
) -> Setup:
    """ValueError where the heads do not divide the width."""
    if width % heads:
        raise ValueError(f"width: expected a multiple of the {heads} heads, got {width}")
    name, numbers = ("dense", {"causal": True}) if pattern == "causal" else (pattern, {"sink": sink, "window": window})
    label = "causal" if pattern == "causal" else f"sink{sink}+window{window}"
    problem = Problem(
        FAMILIES[name],
        FAMILIES[name].defaults() | numbers,
        Sizes(batch, heads, heads, seq_len, width // heads, dtype),
        Choice("softmax"),
        seed=seed,
        name=f"GPT {layers}x{width} {label} B{batch} N{seq_len}",
    )
    return Setup(problem, layers, steps)


def curves(plan: Setup, peers: list[Peer], device: torch.device, checked: bool, console: Console) -> list[Curve]:
    """One for every peer that can run it; the console says why another one cannot.

    checked: outputs and gradients of one layer's attention are compared with the reference first, WrongResult where
    they deviate. ValueError where Python's library is too short.
    """
    text = corpus.library(at_least=16 * (plan.sizes.seq_len + 1))
    console.print(f"text: {text.name}, {len(text.data):,} bytes", highlight=False, markup=False)
    case = Case(plan.attention, device)
    found = check.exact(case) if checked else None
    done = []
    for peer in peers:
        if reason := peer.why_not(case) or peer.backward(case) or _other(peer.computes(case)):
            console.print(f"{peer.name}: not run: {reason}", highlight=False, markup=False)
            continue
        attend = peer.prepare(case)
        curve = Curve(peer.name)
        if found:
            curve.error = max(check.compare(case, found, attend, ["fwd", "bwd"]).values())
        _train(plan, attend, text, device, curve)
        taken = f"loss {curve.losses[0]:.3f} to {curve.losses[-1]:.3f} in {sum(curve.seconds):.1f} s"
        console.print(f"{peer.name}: {taken}", highlight=False)
        done.append(curve)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return done


def _other(computes: str) -> str:
    return "" if computes == "same" else f"computes {computes}"


def _train(plan: Setup, attend: Callable, text: corpus.Corpus, device: torch.device, curve: Curve) -> None:
    seen, unseen = text.split(1 - HELD_OUT)
    sizes, seed = plan.sizes, plan.attention.seed
    model = plan.model(device)
    curve.parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=device.type == "cuda"
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan.steps))
    losses, marks = [], [_mark(device)]
    for batch in seen.batches(plan.steps, sizes.batch, sizes.seq_len, seed).to(device):
        loss = _loss(model, attend, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        marks.append(_mark(device))
    curve.losses = torch.stack(losses).tolist()
    curve.seconds = _between(marks)
    # With gradients, though none is taken: a compiled peer would be compiled again without.
    others = unseen.batches(HELD_OUT_BATCHES, sizes.batch, sizes.seq_len, seed).to(device)
    curve.held_out = torch.stack([_loss(model, attend, batch).detach() for batch in others]).mean().item()


def _loss(model: ByteTransformer, attend: Callable, batch: Tensor) -> Tensor:
    """Of predicting bytes [1:] of (B, N + 1) from those before them."""
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.is_cuda):
        logits = model(batch[:, :-1], attend)
    return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def _rate(step: int, steps: int) -> float:
    """Linear to the peak, then linear to DECAY of it."""
    warm = max(1, round(WARM_UP * steps))
    return (step + 1) / warm if step < warm else 1 - (1 - DECAY) * (step - warm) / max(1, steps - warm)


def _mark(device: torch.device):
    """A moment in the work of the device. On the GPU nothing waits for it."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(marks: list) -> list[float]:
    """Seconds from each to the next."""
    pairs = itertools.pairwise(marks)
    if isinstance(marks[0], float):
        return [end - begin for begin, end in pairs]
    marks[-1].synchronize()
    return [begin.elapsed_time(end) / 1e3 for begin, end in pairs]


def rows(plan: Setup, found: list[Curve], words: list[str]) -> list[dict]:
    """A row a peer. apart: the largest difference from the first one's means of SMOOTH losses."""
    ours = next((curve.step_seconds for curve in found if curve.peer == "splash"), None)
    return [
        {
            "problem": plan.attention.name,
            "pass": "fwd+bwd",
            "peer": curve.peer,
            "parameters": curve.parameters,
            "steps": plan.steps,
            "first_loss": f"{curve.losses[0]:.4f}",
            "last_loss": f"{curve.means()[-1]:.4f}",
            "held_out_loss": f"{curve.held_out:.4f}",
            "apart": f"{max(abs(a - b) for a, b in zip(curve.means(), found[0].means(), strict=True)):.1e}",
            "step_ms": report.number(curve.step_seconds * 1e3),
            "tokens_s": f"{plan.tokens / curve.step_seconds:.0f}",
            "splash_speedup": f"{curve.step_seconds / ours:.3g}" if ours else "",
            "relative_error": "" if curve.error is None else f"{curve.error:.1e}",
            "command": report.command([*words, *_peers(found[0].peer, curve.peer)]),
        }
        for curve in found
    ]


def _peers(*names: str) -> list[str]:
    return [word for name in dict.fromkeys(names) for word in ("--peer", name)]


def steps(plan: Setup, found: list[Curve]) -> list[dict]:
    """A row a step of every peer."""
    return [
        {
            "problem": plan.attention.name,
            "peer": curve.peer,
            "step": step,
            "loss": f"{loss:.5f}",
            "tokens_s": f"{plan.tokens / seconds:.0f}",
        }
        for curve in found
        for step, (loss, seconds) in enumerate(zip(curve.losses, curve.seconds, strict=True), 1)
    ]
