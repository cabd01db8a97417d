#!/usr/bin/env python
"""Draws docs/pictures/results/h200.png from benchmarks/results/h200.csv: `python benchmarks/report/draw_results.py`."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "h200.csv"
PICTURE = ROOT / "docs" / "pictures" / "results" / "h200.png"
PEERS = {
    "sdpa-cudnn": ("s", "#3b6ea5"),
    "flex": ("D", "#5b9a68"),
    "sdpa-flash": ("^", "#8a6bb0"),
    "fa4": ("v", "#777777"),
}
PASSES = {"fwd": "forward", "bwd": "backward"}
SPLASH, AIM = "#d9622b", "#444444"


@dataclass
class Line:
    """A pass of a problem: milliseconds of splash, of the peers that compute the same, and what is owed."""

    name: str
    splash: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    must: float | None = None
    aim: float | None = None


def lines(rows: list[dict], name: str) -> list[Line]:
    """Of the pass with this name."""
    found: dict[str, Line] = {}
    for row in rows:
        if row["pass"] != name or not row["ms"] or row["computes"] != "same":
            continue
        line = found.setdefault(row["problem"], Line(row["problem"]))
        milliseconds = float(row["ms"])
        if row["peer"] != "splash":
            line.peers[row["peer"]] = milliseconds
            continue
        line.splash = milliseconds
        line.must, line.aim = (_as_time(row, column) for column in ("must", "aim"))
    return [line for line in found.values() if line.splash]


def _as_time(row: dict, column: str) -> float | None:
    if not row.get(column):
        return None
    value = float(row[column])
    return float(row["ms"]) * float(row["tflops"]) / value if row["unit"] == "tflops" else value


def draw(rows: list[dict]) -> Figure:
    """Speeds as multiples of what must be reached; in a file without targets, of the fastest peer. A panel a pass."""
    panels = {name: _shown(lines(rows, name)) for name in PASSES}
    panels = {name: shown for name, shown in panels.items() if shown}
    names = list(dict.fromkeys(row["problem"] for row in rows))
    names = [name for name in names if any(line.name == name for shown in panels.values() for line in shown)]
    figure = Figure(figsize=(3.5 + 5 * len(panels), 1.2 + 0.24 * len(names)), layout="constrained")
    handles = {}
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, shown) in zip(axes, panels.items(), strict=True):
        _panel(axis, shown, names)
        what = "what must be reached" if shown[0].must else "the fastest peer"
        axis.set_xlabel(f"{PASSES[name]} speed, as a multiple of {what}")
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.set_yticks(range(len(names)), names, fontsize=7.5)
    axis.set_ylim(len(names) - 0.4, -0.6)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _shown(found: list[Line]) -> list[Line]:
    owed = any(line.must for line in found)
    return [line for line in found if (line.must if owed else line.peers)]


def _panel(axis: Axes, shown: list[Line], names: list[str]) -> None:
    for position, line in enumerate(shown):
        y, unit = names.index(line.name), line.must or min(line.peers.values())
        axis.barh(y, unit / line.splash, height=0.6, color=SPLASH, alpha=0.85, label=None if position else "splash")
        if line.aim:
            axis.plot(unit / line.aim, y, "|", color=AIM, markersize=11, markeredgewidth=2, label="aim")
        for name, milliseconds in line.peers.items():
            marker, colour = PEERS.get(name, ("o", "#999999"))
            axis.plot(unit / milliseconds, y, marker, color=colour, markersize=5, markeredgecolor="white", label=name)
    axis.axvline(1, color="black", linewidth=1)
    axis.grid(axis="x", alpha=0.3)


def main() -> None:
    with RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    draw(rows).savefig(PICTURE, dpi=110, metadata={"Software": None})
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
