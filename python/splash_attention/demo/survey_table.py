"""The survey on the terminal: its progress, its table, and whether every answer agreed."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..bench import check, measure
from ..bench.problems import DTYPES, Problem
from . import survey
from .survey import PASSES, Entry


def run(problems: list[Problem], device: torch.device, what: str, console: Console) -> list[Entry]:
    """The entries of these problems, with a bar of progress."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[name]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=len(problems), name="")
        entries = []
        for entry in survey.run(problems, device, lambda problem: progress.update(task, name=problem.label)):
            entries.append(entry)
            progress.advance(task)
    return entries


def show(entries: list[Entry], windows: list[Entry], device: torch.device, console: Console) -> bool:
    """Prints the table and what has no kernel; True where no answer was wrong."""
    sizes = entries[0].problem.sizes
    table = Table(title=f"Every pattern and normalizer, {sizes}, on {measure.machine(device)}")
    for header in ("pattern", "normalizer", "kept"):
        table.add_column(header, justify="right" if header == "kept" else "left")
    for title in PASSES.values():
        for header in ("ms", "error", "dense SDPA / splash"):
            table.add_column(f"{title}\n{header}", justify="right")
    table.add_column("")
    for entry in entries:
        cells = []
        for direction in PASSES:
            if direction in entry.speedup:
                cells.append(f"{entry.milliseconds[direction]:.3g}")
                cells += [f"{entry.errors[direction]:.1e}", f"{entry.speedup[direction]:.2f}"]
            else:
                cells += ["", "", ""]
        verdict = "[red]deviates[/red]" if entry.wrong else "[green]ok[/green]" if entry.speedup else ""
        table.add_row(entry.pattern, entry.problem.normalizer.label, f"{entry.kept_share:.2%}", *cells, verdict)
    console.print(table)
    for note in dict.fromkeys(entry.note for entry in (*entries, *windows) if entry.note):
        names = ", ".join(entry.problem.label for entry in entries if entry.note == note) or "windows"
        console.print(f"{names}: {note}", highlight=False, markup=False)
    wrong = any(entry.wrong for entry in (*entries, *windows))
    if not wrong:
        tolerance = check.TOLERANCES[DTYPES[sizes.dtype]]
        console.print(
            f"[green]All answers agree[/green] with the reference: relative errors within {tolerance:g} "
            f"({check.THRESHOLD_TOLERANCE:g} for elastic, top-k and entmax2), on a sample of rows. "
            "Speed-ups are over dense softmax by SDPA, causal where the pattern is."
        )
    return not wrong
