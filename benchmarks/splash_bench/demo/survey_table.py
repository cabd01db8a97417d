"""The survey on the terminal: its progress, its table, and whether every answer agreed."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import check, measure
from ..problems import Problem
from ..sizes import DTYPES
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
    table.add_column("pattern, normalizer", overflow="fold")
    table.add_column("kept", justify="right", no_wrap=True)
    for title in PASSES.values():
        table.add_column(f"{title}\nms", justify="right", no_wrap=True)
        table.add_column("speed-\nup", justify="right", no_wrap=True)
    table.add_column("largest\nerror", justify="right", no_wrap=True)
    for entry in entries:
        cells = []
        for direction in PASSES:
            known = direction in entry.speedup
            cells += [f"{entry.milliseconds[direction]:.3g}", f"{entry.speedup[direction]:.2f}"] if known else ["", ""]
        error = f"{max(entry.errors.values()):.1e}" if entry.errors else ""
        verdict = "[red]deviates[/red]" if entry.wrong else f"[green]{error}[/green]"
        table.add_row(entry.name, f"{entry.kept_share:.2%}" if entry.milliseconds else "", *cells, verdict)
    console.print(table)
    for note in dict.fromkeys(entry.note for entry in (*entries, *windows) if entry.note):
        names = ", ".join(entry.problem.label for entry in entries if entry.note == note) or "windows"
        console.print(f"{names}: {note}", highlight=False, markup=False)
    wrong = any(entry.wrong for entry in (*entries, *windows))
    if not wrong:
        dtype = DTYPES[sizes.dtype]
        console.print(
            f"[green]All answers agree[/green] with the reference: relative errors within {check.TOLERANCES[dtype]:g} "
            f"({check.THRESHOLD_TOLERANCES[dtype]:g} for elastic, top-k and entmax2), on a sample of rows. "
            "Speed-ups are over dense softmax by SDPA, causal where the pattern is."
        )
    return not wrong
