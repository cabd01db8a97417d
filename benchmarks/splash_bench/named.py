"""Named problems one after the other, and the table of them."""

from __future__ import annotations

import faulthandler
import gc
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from . import run
from .peers import PEERS, choose
from .problems import Problem
from .run import Owed, Plan

LIMIT_S = 150  # for one problem; compiling FlexAttention takes some of it
LONG = 65536  # FlexAttention forms its block mask from N x N answers
STYLES = {"aim": "green", "must": "yellow", "no": "red"}


def rows(
    problems: list[Problem],
    plan: Plan,
    owed: Owed | None,
    console: Console,
    save: Callable[[list[dict]], None],
    peers: Callable[[Problem], list[str]] | None = None,
    directions: Callable[[Problem], list[str]] | None = None,
) -> list[dict]:
    """The rows of every problem; where one fails, a row with a note takes their place and the next one runs.

    owed: puts what is owed beside each pass. save: called with all rows after each problem, so that a stopped
    run keeps what it has. peers, directions: names for a problem, where they are not those of the plan.
    Ends early where the GPU does not answer any more; where a kernel hangs, the process ends after LIMIT_S.
    """
    found = []
    for problem in problems:
        if plan.device.type == "cuda":
            console.print(problem.name, highlight=False, markup=False)
            console.file.flush()
            # From a thread of its own: Python itself waits for the GPU then.
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        own = replace(
            plan,
            lenient=True,
            directions=directions(problem) if directions else plan.directions,
            peers=choose(peers(problem), plan.device.type) if peers else plan.peers,
        )
        try:
            found += run.measure_problem(problem, own, console, owed)
        except Exception as error:
            note = f"failed: {type(error).__name__}: {str(error)[:300]}"
            console.print(f"{problem.name}: {note}", highlight=False, markup=False)
            found += [run.failed_row(problem, direction, "splash", note, own) for direction in own.directions]
        save(found)
        gc.collect()
        usable = plan.device.type == "cpu" or _usable()
        faulthandler.cancel_dump_traceback_later()
        if not usable:
            console.print("the GPU does not answer any more; the other problems are not run", style="red")
            break
    return found


def _usable() -> bool:
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def table_peers(problem: Problem, device: str) -> list[str]:
    """splash, and those that compute the same fastest: dense kernels, or FlexAttention."""
    if problem.family.name == "dense":
        return ["splash", "sdpa"] if device == "cpu" else ["splash", "sdpa-flash", "sdpa-cudnn"]
    flex = device == "cuda" and problem.sizes.seq_len <= LONG and not PEERS["flex"].missing()
    return ["splash", "flex"] if flex else ["splash"]


def failures(found: list[dict]) -> list[dict]:
    return [row for row in found if row.get("note")]


def show(console: Console, found: list[dict]) -> None:
    """A line for each problem and pass: splash, its peers that compute the same, and what is owed where it is known."""
    targeted = any(row.get("met") for row in found)
    peers = [peer for peer in dict.fromkeys(row["peer"] for row in found) if peer != "splash"]
    unit = "GFLOP/s" if any(row.get("gflops") for row in found) else "TFLOP/s"
    table = Table()
    for header in ("problem", "pass"):
        table.add_column(header, overflow="fold")
    headers = ("floor ms", "must", "aim", "of must", "met") if targeted else ()
    for header in ("ms", unit, "error", *(f"{peer}\nms" for peer in peers), *headers):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    lines: dict[tuple[str, str], dict[str, dict]] = {}
    for row in found:
        lines.setdefault((row["problem"], row["pass"]), {})[row["peer"]] = row
    for key, line in lines.items():
        ours = line.get("splash", {})
        others = [_same(line.get(peer)) for peer in peers]
        rate = ours.get("tflops") or ours.get("gflops") or ""
        cells = [ours.get("ms", ""), rate, ours.get("relative_error", ""), *others, *(_owing(ours) if targeted else ())]
        table.add_row(*key, *cells, ours.get("note", ""))
    console.print(table)
    for direction in dict.fromkeys(row["pass"] for row in found if row.get("met")):
        counted = [row["met"] for row in found if row.get("met") and row["pass"] == direction]
        aimed, missed = counted.count("aim"), counted.count("no")
        text = f"{aimed} at their aim, {len(counted) - missed} at what they must, {missed} not"
        console.print(f"{direction}: {len(counted)} with targets: {text}", highlight=False)


def _same(row: dict | None) -> str:
    return row["ms"] if row and row.get("computes") == "same" else ""


def _owing(row: dict) -> tuple[str, ...]:
    met = row.get("met", "")
    limits = (_with_unit(row, column) for column in ("must", "aim"))
    return row.get("floor_ms", ""), *limits, row.get("of_must", ""), f"[{STYLES[met]}]{met}[/]" if met else ""


def _with_unit(row: dict, column: str) -> str:
    value = row.get(column, "")
    return f"{value} {'TF' if row['unit'] == 'tflops' else 'ms'}" if value else ""
