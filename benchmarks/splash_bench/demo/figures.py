"""The two pictures of the demo."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .maps import Weights
from .training import Pair

SMALLEST_SHOWN = 1e-3
DIFFERENCE_FLOOR = 1e-8  # below the rounding of a float32 loss, so that equal losses have a place on the axis


def draw_losses(pairs: dict[str, Pair], tolerance: float, path: Path) -> None:
    """Losses of splash and the reference over the steps, and below them their differences."""
    figure = Figure(figsize=(4.2 * len(pairs), 5.4), layout="constrained")
    axes = figure.subplots(2, len(pairs), squeeze=False, sharex=True, sharey="row", height_ratios=(2, 1))
    for (name, pair), (top, bottom) in zip(pairs.items(), axes.T, strict=True):
        top.plot(pair.splash.losses, color="tab:orange", linewidth=4, alpha=0.6, label="splash")
        top.plot(pair.reference.losses, color="black", linewidth=0.9, label="reference")
        top.set_title(name)
        top.legend()
        bottom.semilogy([max(d, DIFFERENCE_FLOOR) for d in pair.differences()], ".", markersize=3, color="tab:blue")
        bottom.axhline(tolerance, color="tab:red", linewidth=0.9, label="tolerance")
        bottom.set_ylim(DIFFERENCE_FLOOR / 3, tolerance * 30)
        bottom.set_xlabel("step")
        bottom.legend()
    axes[0][0].set_ylabel("loss (nats a byte)")
    axes[1][0].set_ylabel("|difference|")
    figure.savefig(path, dpi=120)


def draw_maps(maps: dict[str, Weights], path: Path) -> None:
    """One row of maps a variant, one column a layer and head: grey is masked, white an exact zero."""
    layers, heads = next(iter(maps.values())).weights.shape[:2]
    figure = Figure(figsize=(3.1 * layers * heads, 3.2 * len(maps)), layout="constrained")
    axes = figure.subplots(len(maps), layers * heads, squeeze=False, sharex=True, sharey=True)
    for row, (name, found) in zip(axes, maps.items(), strict=True):
        for index, axis in enumerate(row):
            weights = found.weights[index // heads, index % heads]
            masked = torch.where(found.kept, torch.nan, 0.8)
            axis.imshow(masked.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            shown = torch.where((weights > 0) & found.kept, weights.clamp(min=SMALLEST_SHOWN), torch.nan)
            image = axis.imshow(shown.numpy(), cmap="magma_r", norm=LogNorm(SMALLEST_SHOWN, 1), interpolation="nearest")
            axis.set_title(f"layer {index // heads}, head {index % heads}", fontsize=9)
        row[0].set_ylabel(f"{name}\nquery byte")
    for axis in axes[-1]:
        axis.set_xlabel("key byte")
    figure.colorbar(image, ax=axes, shrink=0.5, label=f"weight (values up to {SMALLEST_SHOWN:g} in one colour)")
    figure.savefig(path, dpi=110)
