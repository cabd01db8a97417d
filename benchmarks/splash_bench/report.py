"""Rows as a table on the terminal, as CSV, and as a picture."""

from __future__ import annotations

import csv
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table

from . import measure

PROGRAM = "python -m splash_attention bench"


def command(words: Iterable[object]) -> str:
    """The shell command that repeats a row."""
    return f"{PROGRAM} {shlex.join(str(word) for word in words)}"


def console() -> Console:
    """As wide as the terminal, or wide enough for every table where there is none."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(soft_wrap=False, width=None if known else 200)


def finish(found: list[dict], device: torch.device, out: Path | None, **columns: object) -> None:
    """Writes the CSV; exit code 1 where nothing ran."""
    if out:
        write(out, [row | columns | measure.origin(device) for row in found])
    if not found:
        raise typer.Exit(1)


def repeat_hint(screen: Console, found: list[dict]) -> None:
    if found:
        screen.print("Each row is repeated by its command, for example:", highlight=False)
        screen.print(found[0]["command"], highlight=False, soft_wrap=True, markup=False)


def write(path: Path, rows: list[dict]) -> None:
    """All rows as CSV; columns are the keys of all rows in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def show(console: Console, rows: list[dict], columns: dict[str, str], title: str | None = None) -> None:
    """A table of some columns: {key of a row: header}. Keys that no row has are left out; a problem that all rows share
    becomes the title."""
    names = {row["problem"] for row in rows}
    if title is None and len(names) == 1:
        title = names.pop()
        columns = {key: header for key, header in columns.items() if key != "problem"}
    columns = {key: header for key, header in columns.items() if any(row.get(key) not in (None, "") for row in rows)}
    table = Table(title=title)
    for key, header in columns.items():
        table.add_column(header, justify="left" if key in ("problem", "peer", "pass", "note") else "right")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in columns))
    console.print(table)


def number(value: float) -> str:
    """Four digits that mean something."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def plot_bars(path: Path, rows: list[dict], value: str, label: str) -> None:
    """Bars of one column, a panel for each pass."""
    passes = list(dict.fromkeys(row["pass"] for row in rows))
    figure = _figure(len(passes), height=1 + 0.3 * max(4, len(rows) / len(passes)))
    for axis, name in zip(_axes(figure, len(passes)), passes, strict=True):
        chosen = [row for row in rows if row["pass"] == name and row[value]]
        labels = [f"{row['problem']}\n{row['peer']}" for row in chosen]
        bars = axis.barh(range(len(chosen)), [float(row[value]) for row in chosen])
        for bar, row in zip(bars, chosen, strict=True):
            bar.set_color("tab:orange" if row["peer"] == "splash" else "tab:gray")
        axis.bar_label(bars, [row[value] for row in chosen], padding=2, fontsize=7)
        axis.set_yticks(range(len(chosen)), labels, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(name)
        axis.set_xlabel(label)
        axis.margins(x=0.15)
    _save(figure, path)


def plot_lines(path: Path, rows: list[dict], x: str, value: str, xlabel: str, label: str) -> None:
    """One line a peer over a column, both axes logarithmic, a panel for each pass."""
    passes = list(dict.fromkeys(row["pass"] for row in rows))
    figure = _figure(len(passes), height=4)
    for axis, name in zip(_axes(figure, len(passes)), passes, strict=True):
        for peer in dict.fromkeys(row["peer"] for row in rows):
            points = [(float(row[x]), float(row[value])) for row in rows if (row["pass"], row["peer"]) == (name, peer)]
            if points:
                axis.loglog(*zip(*points, strict=True), "o-", base=2, markersize=4, label=peer)
        axis.set_title(name)
        axis.set_xlabel(xlabel)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)


def plot_losses(path: Path, losses: dict[str, list[float]], smooth: int) -> None:
    """Losses by peer over the steps; below, how far means of `smooth` of them are from the first peer's."""
    figure = _figure(1, height=6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    means = {}
    for place, (peer, values) in enumerate(losses.items()):
        top.plot(range(1, len(values) + 1), values, linewidth=3 / (1 + 2 * place), alpha=0.8, label=peer)
        width = min(smooth, len(values))
        means[peer] = torch.tensor(values, dtype=torch.float64).unfold(0, width, 1).mean(-1)
    first, *others = means
    for place, peer in enumerate(others, 1):
        apart = means[peer] - means[first]
        ends = range(len(losses[peer]) - len(apart) + 1, len(losses[peer]) + 1)
        bottom.plot(ends, apart, color=f"C{place}", label=f"{peer} - {first}")
    top.set_ylabel("loss, nats a byte")
    top.legend()
    bottom.axhline(0, color="black", linewidth=0.8)
    bottom.set_ylabel(f"difference,\nmeans of {smooth}")
    bottom.set_xlabel("step")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    _save(figure, path)


def _figure(panels: int, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(6 * panels, height), layout="constrained")


def _axes(figure, panels: int):
    return figure.subplots(1, panels, squeeze=False)[0]


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
