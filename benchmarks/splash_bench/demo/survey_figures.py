"""The pictures of the survey: the patterns, and speed-up against sparsity."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from ..case import Case
from .survey import PASSES, Entry, drawn


def draw_patterns(path: Path) -> None:
    """Which scores each pattern keeps, queries downwards and keys to the right; LongNet's branches joined."""
    found = drawn()
    columns = 5
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, problem in zip(axes, found, strict=False):
        case = Case(problem, torch.device("cpu"))
        length = problem.sizes.seq_len
        mask = case.pattern.to_dense(length, length, problem.sizes.heads)[0, 0]
        axis.imshow(mask.numpy(), cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
        axis.set_title(problem.family.name, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[len(found) :]:
        axis.axis("off")
    figure.supxlabel("key")
    figure.supylabel("query")
    figure.savefig(path, dpi=110)


def draw_speedups(entries: list[Entry], windows: list[Entry], path: Path) -> None:
    """Times of dense SDPA over those of splash, against the share of the scores that is kept."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    for axis, (direction, title) in zip(figure.subplots(1, 2, sharey=True), PASSES.items(), strict=True):
        line = [(entry.kept_share, entry.speedup[direction]) for entry in windows if direction in entry.speedup]
        if line:
            axis.plot(*zip(*line, strict=True), "-", color="tab:orange", label="causal windows")
        for entry in entries:
            if direction not in entry.speedup or entry.problem.normalizer.name != "softmax":
                continue
            point = entry.kept_share, entry.speedup[direction]
            axis.plot(*point, "o", color="tab:blue", markersize=4)
            axis.annotate(entry.pattern, point, (3, 3), textcoords="offset points", fontsize=7)
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xlabel("share of the scores that is kept")
        axis.grid(alpha=0.3)
        if line:
            axis.legend()
    figure.supylabel("speed-up over dense SDPA (causal where the pattern is)")
    figure.savefig(path, dpi=120)
