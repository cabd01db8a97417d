"""Time to build what patterns with tensors need beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.console import Console

from splash_attention import patterns, prepare
from splash_attention.patterns import Pattern

from . import measure, report

COLUMNS = {
    "problem": "problem",
    "pass": "for",
    "ms": "ms",
    "launched_ms": "ms with launches",
    "wanted": "wanted below",
    "met": "met",
    "note": "note",
}
WANTED_MS = 1.0
HEADS = 16
FOR = {"fwd": "fwd", "bwd": "fwd+bwd"}


def problems(length: int, device: torch.device) -> dict[str, Callable[[], Pattern]]:
    """Functions that return a pattern anew, so that nothing of the last one is kept."""
    generator = torch.Generator(device).manual_seed(0)
    blocks = -(-length // 64)
    seeds = itertools.count()
    bird = patterns.BigBird(64, 3, first=2, last=0, random=3)
    one, each = (
        torch.rand(1, heads, blocks, blocks, generator=generator, device=device) < 0.05 for heads in (1, HEADS)
    )
    index = torch.arange(length, device=device)
    return {
        "bigbird b64 w3 g2 r3": lambda: replace(bird, seed=next(seeds)),
        "bigbird b64 w3 g2 r3 by head": lambda: replace(bird, seed=next(seeds), per_head=True),
        "block-mask 64, one for all heads": lambda: patterns.BlockMask(one, 64),
        f"block-mask 64, {HEADS} heads": lambda: patterns.BlockMask(each, 64),
        "index-causal": lambda: patterns.IndexCausal(index, index),
    }


def rows(length: int, directions: list[str], device: torch.device, rounds: int, console: Console) -> list[dict]:
    """A row for each pattern and direction that the metadata serves.

    ms: of a replayed CUDA graph, device time alone; launched_ms: of calls from Python, the gaps between them included.
    """
    q = torch.empty(8, dtype=torch.float16 if device.type == "cuda" else torch.float32, device=device)
    q = q.expand(1, HEADS, length, 8)
    found = []
    for name, make in problems(length, device).items():
        for direction in directions:
            backward = direction == "bwd"

            def build(make=make, backward=backward):
                return prepare(make(), q, q, backward=backward)

            options = ["--seq-len", length, "--direction", direction, "--device", device.type, "--rounds", rounds]
            row = {"problem": f"{name} N{length}", "pass": FOR[direction], "peer": "splash", "wanted": WANTED_MS}
            with console.status(f"{name}, {FOR[direction]}"):
                try:
                    row |= _times(build, device, rounds)
                except Exception as error:
                    row["note"] = f"{type(error).__name__}: {str(error)[:300]}"
            found.append(row | {"command": report.command(["metadata", *options])})
    return found


def _times(build: Callable, device: torch.device, rounds: int) -> dict[str, str]:
    if device.type == "cpu":
        seconds = measure.interleaved({"build": build}, rounds)["build"]
        return {"ms": report.number(seconds * 1e3)}
    build()
    launched = {"launched_ms": report.number(measure.device_seconds(build) * 1e3)}
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            build()
    except RuntimeError as error:  # what waits for the device cannot be captured
        return launched | {"met": "no", "note": f"not captured: {str(error)[:200]}"}
    seconds = measure.device_seconds(graph.replay)
    met = "yes" if seconds * 1e3 < WANTED_MS else "no"
    return {"ms": report.number(seconds * 1e3)} | launched | {"met": met}
