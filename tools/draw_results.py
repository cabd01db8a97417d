#!/usr/bin/env python
"""Draws docs/pictures/results/h200.png from benchmarks/results/h200.csv: `python tools/draw_results.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from markers import ROOT
from matplotlib.figure import Figure
from results_table import PICTURES, RESULTS, read

NAME = "h200"
PEERS = {
    "sdpa-cudnn": ("s", "#3b6ea5"),
    "flex": ("D", "#5b9a68"),
    "sdpa-flash": ("^", "#8a6bb0"),
    "fa4": ("v", "#777777"),
}
SPLASH, AIM = "#d9622b", "#444444"


@dataclass
class Line:
    """A forward: milliseconds of splash, of the peers that compute the same, and what is owed."""

    name: str
    splash: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    must: float | None = None
    aim: float | None = None


def lines(rows: list[dict]) -> list[Line]:
    found: dict[str, Line] = {}
    for row in rows:
        if row["pass"] != "fwd" or not row["ms"] or row["computes"] != "same":
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


def draw(found: list[Line]) -> Figure:
    """Speeds as multiples of what must be reached; in a file without targets, of the fastest peer."""
    owed = any(line.must for line in found)
    shown = [line for line in found if (line.must if owed else line.peers)]
    figure = Figure(figsize=(8.5, 1.2 + 0.24 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for y, line in enumerate(shown):
        unit = line.must if owed else min(line.peers.values())
        axis.barh(y, unit / line.splash, height=0.6, color=SPLASH, alpha=0.85, label="splash" if y == 0 else None)
        if line.aim:
            axis.plot(unit / line.aim, y, "|", color=AIM, markersize=11, markeredgewidth=2, label="aim")
        for name, milliseconds in line.peers.items():
            marker, colour = PEERS.get(name, ("o", "#999999"))
            axis.plot(unit / milliseconds, y, marker, color=colour, markersize=5, markeredgecolor="white", label=name)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks(range(len(shown)), [line.name for line in shown], fontsize=7.5)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_xlabel(f"forward speed, as a multiple of {'what must be reached' if owed else 'the fastest peer'}")
    axis.grid(axis="x", alpha=0.3)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def main() -> None:
    path = PICTURES / f"{NAME}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(lines(read(RESULTS / f"{NAME}.csv"))).savefig(path, dpi=110, metadata={"Software": None})
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
