#!/usr/bin/env python
"""Draws the pictures of docs/patterns.md and README.md, and counts the densities of the page's table:
`python tools/draw_patterns.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from markers import ROOT, markdown_table, replaced
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import splash_attention as sa

PAGE = ROOT / "docs" / "patterns.md"
FOLDER = ROOT / "docs" / "pictures" / "patterns"
ALL = ROOT / "docs" / "pictures" / "patterns.png"
COLUMNS = 6  # of the picture of all
COLOURS = ListedColormap(["#f2f2f2", "#1f5a99"])
LENGTH = 48


@dataclass(frozen=True)
class Panel:
    title: str
    pattern: sa.Pattern
    head: int = 0
    heads: int = 1
    length: int = LENGTH


def document_mask(length: int) -> torch.Tensor:
    """Three documents, causal, with a shared start."""
    document = torch.bucketize(torch.arange(length), torch.tensor([length // 4, length * 5 // 8]), right=True)
    place = torch.arange(length)
    return (document[:, None] == document) & (place[:, None] >= place) | (place < 3) & (place[:, None] >= place)


def tree_mask() -> torch.Tensor:
    """Each node of a binary tree sees itself and its ancestors."""
    mask = torch.eye(31, dtype=torch.bool)
    for node in range(1, 31):
        mask[node] |= mask[(node - 1) // 2]
    return mask


def indices() -> sa.Pattern:
    """Half of the keys were kept, and queries come in two passes."""
    generator = torch.Generator().manual_seed(2)
    k_idx = torch.randperm(2 * LENGTH, generator=generator)[:LENGTH].sort().values
    return sa.IndexCausal(2 * torch.arange(LENGTH), k_idx)


def content() -> sa.Pattern:
    """Keys of four topics, which queries of the same topic like."""
    generator = torch.Generator().manual_seed(5)
    topics = torch.randn(4, 16, generator=generator)
    topic = torch.tensor([0, 1, 0, 2, 3, 1, 2, 0, 3, 1, 0, 2]).repeat_interleave(16)
    tokens = topics[topic] + 0.3 * torch.randn(192, 16, generator=generator)
    return sa.top_k_blocks(tokens[None, None], tokens[None, None], 16, 3)


def panels() -> dict[str, list[Panel]]:
    blocks = torch.rand(6, 6, generator=torch.Generator().manual_seed(3)) < 0.45
    return {
        "bands": [
            Panel("Full()", sa.Full()),
            Panel("Causal()", sa.Causal()),
            Panel("SlidingWindow.causal(12)", sa.SlidingWindow.causal(12)),
            Panel("SlidingWindow.symmetric(6)", sa.SlidingWindow.symmetric(6)),
        ],
        "streaming": [Panel("Streaming(sink=4, window=10)", sa.Streaming(4, 10))],
        "block_diagonal": [
            Panel("BlockDiagonal(12)", sa.BlockDiagonal(12)),
            Panel("BlockDiagonal(12, causal=True)", sa.BlockDiagonal(12, True)),
        ],
        "dilated": [
            Panel("Dilated(6, 3)", sa.Dilated(6, 3)),
            Panel("Dilated(4, 3, causal=False)", sa.Dilated(4, 3, False)),
            *(Panel(f"Dilated(6, (1, 2, 4, 8)), head {h}", sa.Dilated(6, (1, 2, 4, 8)), h, 4) for h in (1, 3)),
        ],
        "strided": [Panel("Strided(local=8, stride=8)", sa.Strided(8, 8))],
        "fixed": [Panel("Fixed(stride=8, summary=2)", sa.Fixed(8, 2))],
        "longformer": [
            Panel("Longformer(4, global_tokens=3)", sa.Longformer(4, 3)),
            Panel("Longformer(4, (0, 20, 36), dilation=2)", sa.Longformer(4, (0, 20, 36), 2)),
            Panel("Longformer(4, 3, causal=True)", sa.Longformer(4, 3, causal=True)),
        ],
        "big_bird": [
            Panel("BigBird(block=3, random=2)", sa.BigBird(3, random=2, seed=1)),
            Panel("... per_head=True, head 1", sa.BigBird(3, random=2, seed=1, per_head=True), 1, 2),
            Panel("... causal=True", sa.BigBird(3, random=2, seed=1, causal=True)),
        ],
        "block_mask": [
            Panel("BlockMask(mask, 16)", sa.BlockMask(blocks, 16), length=96),
            Panel("BlockMask(mask, 16) & Causal()", sa.BlockMask(blocks, 16) & sa.Causal(), length=96),
            Panel("top_k_blocks(q, k, 16, top=3)", content(), length=192),
        ],
        "element_mask": [
            Panel("ElementMask: documents", sa.ElementMask(document_mask(LENGTH))),
            Panel("ElementMask: a tree", sa.ElementMask(tree_mask()), length=31),
        ],
        "index_causal": [Panel("IndexCausal(q_idx, k_idx)", indices())],
        "conjunctions": [
            Panel("Strided(1, 4) & SlidingWindow.causal(25)", sa.Strided(1, 4) & sa.SlidingWindow.causal(25)),
            Panel("BlockDiagonal(24) & Dilated(24, 2)", sa.BlockDiagonal(24) & sa.Dilated(24, 2)),
        ],
    }


COUNTED = {
    "Causal()": sa.Causal(),
    "SlidingWindow.causal(256)": sa.SlidingWindow.causal(256),
    "Streaming(16, 64)": sa.Streaming(16, 64),
    "BlockDiagonal(128)": sa.BlockDiagonal(128),
    "Dilated(64, 8)": sa.Dilated(64, 8),
    "Dilated(64, (1, 2, 4, 8))": sa.Dilated(64, (1, 2, 4, 8)),
    "Strided(128, 128)": sa.Strided(128, 128),
    "Fixed(128, 8)": sa.Fixed(128, 8),
    "Longformer(256, 16)": sa.Longformer(256, 16),
    "BigBird()": sa.BigBird(),
    "BigBird(causal=True)": sa.BigBird(causal=True),
}
TILE, SHORT, LONG = 64, 8192, 131072


def visited(pattern: sa.Pattern) -> float:
    """The share of tiles with a kept score, over heads."""
    mask = pattern.to_dense(SHORT, SHORT)[0]
    tiles = mask.unflatten(1, (SHORT // TILE, TILE)).unflatten(3, (SHORT // TILE, TILE))
    return tiles.any(4).any(2).double().mean().item()


def densities() -> str:
    header = ("pattern", f"density, {SHORT}", f"tiles, {SHORT}", f"density, {LONG}")
    rows = [
        (
            f"`{text}`",
            f"{pattern.density(SHORT, SHORT):.2%}",
            f"{visited(pattern):.1%}",
            f"{pattern.density(LONG, LONG):.3%}",
        )
        for text, pattern in COUNTED.items()
    ]
    return markdown_table(header, rows)


def of_readme() -> list[Panel]:
    """One panel a family, without its numbers."""
    blocks = torch.rand(8, 8, generator=torch.Generator().manual_seed(4)) < 0.35
    blocks |= torch.eye(8, dtype=torch.bool)
    return [
        Panel("Causal", sa.Causal()),
        Panel("SlidingWindow", sa.SlidingWindow.symmetric(5)),
        Panel("Streaming", sa.Streaming(4, 10)),
        Panel("BlockDiagonal", sa.BlockDiagonal(12)),
        Panel("Dilated", sa.Dilated(6, 3)),
        Panel("Strided", sa.Strided(8, 8)),
        Panel("Fixed", sa.Fixed(8, 2)),
        Panel("Longformer", sa.Longformer(4, (0, 20, 36))),
        Panel("BigBird", sa.BigBird(3, random=2, seed=1)),
        Panel("BlockMask & Causal", sa.BlockMask(blocks, 16) & sa.Causal(), length=128),
        Panel("ElementMask", sa.ElementMask(document_mask(LENGTH))),
        Panel("IndexCausal", indices()),
    ]


def draw(name: str, row: list[Panel]) -> Path:
    return save([row], FOLDER / f"{name}.png", (3.1, 3.3), 8.5)


def save(rows: list[list[Panel]], path: Path, size: tuple[float, float], fontsize: float) -> Path:
    """Rows of panels, each of `size` inches."""
    columns = len(rows[0])
    figure = Figure(figsize=(size[0] * columns, size[1] * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis, panel in zip(axes.flat, [panel for row in rows for panel in row], strict=True):
        mask = panel.pattern.to_dense(panel.length, panel.length, heads=panel.heads)
        axis.imshow(mask[0, min(panel.head, mask.shape[1] - 1)], cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(panel.title, fontsize=fontsize)
        axis.set_xticks([])
        axis.set_yticks([])
        if panel.length <= LENGTH:
            axis.set_xticks(torch.arange(-0.5, panel.length).tolist(), minor=True)
            axis.set_yticks(torch.arange(-0.5, panel.length).tolist(), minor=True)
            axis.grid(which="minor", color="white", linewidth=0.4)
            axis.tick_params(which="minor", length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    return path


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    shown = of_readme()
    rows = [shown[first : first + COLUMNS] for first in range(0, len(shown), COLUMNS)]
    for path in (save(rows, ALL, (1.7, 1.9), 9), *(draw(name, row) for name, row in panels().items())):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")
    PAGE.write_text(replaced(PAGE.read_text(), "densities", densities()))


if __name__ == "__main__":
    main()
