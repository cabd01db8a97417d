#!/usr/bin/env python
"""Draws the loss curves that `bench train --curves FILE` wrote on a machine without matplotlib.

`PYTHONPATH=python:benchmarks python benchmarks/report/draw_training.py [FILE] [PICTURE]`: unless told otherwise
benchmarks/results/curves/h200_training.csv to docs/pictures/results/h200_training.png, beside the summary
benchmarks/results/h200_training.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

from splash_bench import report, train

ROOT = Path(__file__).resolve().parents[2]
CURVES = ROOT / "benchmarks" / "results" / "curves" / "h200_training.csv"
PICTURE = ROOT / "docs" / "pictures" / "results" / "h200_training.png"


def losses(rows: list[dict]) -> dict[str, list[float]]:
    """By peer, in the order of the steps. ValueError where the rows are of several problems."""
    names = list(dict.fromkeys(row["problem"] for row in rows))
    if len(names) != 1:
        raise ValueError(f"expected the steps of one problem, got {', '.join(names)}")
    return {
        peer: [float(row["loss"]) for row in rows if row["peer"] == peer]
        for peer in dict.fromkeys(row["peer"] for row in rows)
    }


def main(source: str | Path = CURVES, picture: str | Path = PICTURE) -> None:
    report.plot_losses(Path(picture), losses(report.read(Path(source))), train.SMOOTH)
    print(f"{picture}: {Path(picture).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
