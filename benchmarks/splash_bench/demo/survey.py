"""Every pattern and every normalizer on the device at hand: checked against the reference, timed against dense SDPA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from rich.console import Console

from ..choices import Choice
from ..families import FAMILIES
from ..peers import choose
from ..problems import Problem
from ..run import Plan, measure_problem
from ..sizes import Sizes

CHECKED_SCORES = 2**21
ROUNDS = 3
PASSES = {"fwd": "forward", "bwd": "backward"}
PATTERNS = [name for name, family in FAMILIES.items() if family.normalizer == "softmax"]
NORMALIZERS = (
    Choice("softmax-sink"),
    Choice("entmax", 1.5),
    Choice("entmax", 2),
    Choice("entmax", 1.25),
    Choice("elastic"),
    Choice("top-k", 1, 32),
    Choice("top-k", 1.5, 32),
)
# Scaled to the length: what is wide at 2048 positions is everything at 256.
SCALED = {
    "window": lambda n: {"window": max(1, n // 16)},
    "streaming": lambda n: {"window": max(1, n // 32)},
    "block-diagonal": lambda n: {"block": max(1, n // 32)},
    "dilated": lambda n: {"window": max(1, n // 32)},
    "strided": lambda n: {"local": max(1, n // 32), "stride": max(1, n // 32)},
    "fixed": lambda n: {"stride": max(1, n // 16), "summary": max(1, n // 512)},
    "longformer": lambda n: {"window": n // 32, "global_tokens": n // 64},
    "bigbird": lambda n: {"block": max(1, n // 64)},
    "longnet": lambda n: {"segment": (max(1, n // 16), max(1, n // 4), n)},
}


@dataclass
class Entry:
    """One line of the table. speedup: of splash over dense softmax by SDPA, by pass; note: what did not run."""

    problem: Problem
    kept_share: float = 0
    errors: dict[str, float] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    speedup: dict[str, float] = field(default_factory=dict)
    note: str = ""
    wrong: bool = False

    @property
    def name(self) -> str:
        """What is computed."""
        normalizer = self.problem.normalizer
        return self.pattern if normalizer.name == "softmax" else f"{self.pattern}, {normalizer.label}"

    @property
    def pattern(self) -> str:
        """The name of its family, and what sets it apart from another line of that family."""
        numbers = self.problem.numbers
        if self.problem.family.name == "dense":
            return "causal" if numbers["causal"] else "full"
        per_head = self.problem.family.name == "dilated" and len(numbers["dilation"]) > 1
        return f"{self.problem.family.name}{' per head' if per_head else ''}"


def sizes_for(device: torch.device, length: int | None) -> Sizes:
    if device.type == "cuda":
        return Sizes(heads=16, kv_heads=16, seq_len=length or 8192, dtype="bfloat16")
    return Sizes(heads=4, kv_heads=4, seq_len=length or 2048)


def problems(sizes: Sizes, seed: int) -> list[Problem]:
    """All patterns under softmax; all other normalizers under a causal mask, and under a window."""
    found = [_problem(name, sizes, Choice(), seed) for name in PATTERNS]
    found.insert(0, _problem("dense", sizes, Choice(), seed, causal=False))
    found.append(_problem("dilated", sizes, Choice(), seed, dilation=(1, 2, 4, 8) * (sizes.heads // 4)))
    for choice in NORMALIZERS:
        found += [_problem(name, sizes, choice, seed) for name in ("dense", "window")]
    return found


def windows(sizes: Sizes, seed: int) -> list[Problem]:
    """Causal windows from 1 / 128 of the length to all of it."""
    counts = [max(1, sizes.seq_len >> shift) for shift in (7, 6, 5, 4, 3, 2, 1, 0)]
    family = FAMILIES["window"]
    numbers = [family.defaults() | {"window": count} for count in dict.fromkeys(counts)]
    return [Problem(family, chosen, sizes, Choice(), seed=seed) for chosen in numbers]


def _problem(name: str, sizes: Sizes, choice: Choice, seed: int, **given: object) -> Problem:
    family = FAMILIES[name]
    numbers = family.defaults() | SCALED.get(name, lambda n: {})(sizes.seq_len) | given
    return Problem(family, numbers, sizes, choice, seed=seed)


def run(chosen: list[Problem], device: torch.device, begin: Callable[[Problem], None]) -> Iterator[Entry]:
    """The entries of these problems, one by one; `begin` is called before each."""
    for problem in chosen:
        begin(problem)
        yield _entry(problem, device)


def _entry(problem: Problem, device: torch.device) -> Entry:
    peers = choose(["splash", "sdpa"], device.type)
    plan = Plan(device, list(PASSES), peers, ROUNDS, repeat_ms=20, lenient=True, scores=CHECKED_SCORES)
    entry = Entry(problem)
    for row in measure_problem(problem, plan, Console(quiet=True)):
        direction = row["pass"]
        if row.get("note"):
            entry.note = row["note"]
            entry.wrong |= not entry.note.startswith("no kernel")
        elif row["peer"] == "splash":
            entry.kept_share = float(row["kept_share"])
            entry.errors[direction] = float(row["relative_error"])
            entry.milliseconds[direction] = float(row["ms"])
        elif direction in entry.milliseconds:
            entry.speedup[direction] = float(row["splash_speedup"])
    return entry


def drawn() -> list[Problem]:
    """Every pattern at a length that a picture shows."""
    sizes = Sizes(heads=4, kv_heads=4, seq_len=96, head_dim=16)
    numbers = {
        "window": {"window": 12},
        "streaming": {"sink": 4, "window": 12},
        "block-diagonal": {"block": 16},
        "dilated": {"window": 8, "dilation": (4,)},
        "strided": {"local": 12, "stride": 12},
        "fixed": {"stride": 16, "summary": 2},
        "longformer": {"window": 6, "global_tokens": 4},
        "bigbird": {"block": 6, "random": 2},
        "block-mask": {"block": 16, "density": 0.34},
        "top-k-blocks": {"block": 16, "top": 2},
        "element-mask": {"documents": 6},
        "index-causal": {"stretch": 4},
        "longnet": {"segment": (16, 32, 96), "rate": (1, 2, 4)},
    }
    found = (_problem(name, sizes, Choice(), seed=3) for name in PATTERNS)
    return [replace(p, numbers=p.numbers | numbers.get(p.family.name, {}), name="") for p in found]
