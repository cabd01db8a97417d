"""Tables over the sequence length: doubling lengths, and where sparse first beats dense."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import report
from .problems import Problem
from .run import Plan, measure_problem


def doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, ... up to `last`."""
    lengths = []
    while first <= last:
        lengths.append(first)
        first *= 2
    return lengths


def rows(verb: str, problem: Problem, lengths: list[int], plan: Plan, console: Console) -> list[dict]:
    """Those of the problem at every length; each is repeated by the problem's own command."""
    found = []
    for length in lengths:
        found += [
            {"seq_len": length, **row} for row in measure_problem(problem.with_sizes(seq_len=length), plan, console)
        ]
    return found


def show(console: Console, found: list[dict], title: str) -> None:
    """A line for each length, columns of each pass and peer, as benchmarks of attention are printed."""
    if not found:
        return
    passes, peers = (list(dict.fromkeys(row[key] for row in found)) for key in ("pass", "peer"))
    table = Table(title=title)
    unit = "TFLOP/s" if "tflops" in found[0] else "GFLOP/s"
    for header in ("N", "kept"):
        table.add_column(header, justify="right")
    for direction in passes:
        for peer in peers:
            table.add_column(f"{direction} {peer}\nms ({unit})", justify="right")
        for peer in peers:
            if peer != "splash":
                table.add_column(f"{direction}\n{peer} / splash", justify="right")
    cells = {(row["seq_len"], row["pass"], row["peer"]): row for row in found}
    for length in dict.fromkeys(row["seq_len"] for row in found):
        share = next(row["kept_share"] for row in found if row["seq_len"] == length)
        line = [str(length), f"{float(share):.3%}"]
        for direction in passes:
            chosen = [cells.get((length, direction, peer)) for peer in peers]
            line += [f"{row['ms']} ({row.get('tflops') or row.get('gflops')})" if row else "" for row in chosen]
            line += [
                row["splash_speedup"] if row else ""
                for row, peer in zip(chosen, peers, strict=True)
                if peer != "splash"
            ]
        table.add_row(*line)
    console.print(table)


def break_even(found: list[dict]) -> dict[tuple[str, str], int | None]:
    """{(pass, peer): the first length from which on splash is the faster at all lengths}, None where there is none."""
    result = {}
    for row in found:
        if row["peer"] == "splash" or not row["splash_speedup"]:
            continue
        key = row["pass"], row["peer"]
        if float(row["splash_speedup"]) <= 1:
            result[key] = None
        elif result.get(key) is None:
            result[key] = row["seq_len"]
    return result


def show_break_even(console: Console, found: list[dict]) -> None:
    for (direction, peer), length in break_even(found).items():
        text = "at none of these lengths" if length is None else f"from N = {length} on"
        console.print(f"{direction}: splash is faster than {peer} {text}", highlight=False)


def plot(path: Path, found: list[dict]) -> None:
    report.plot_lines(path, found, "seq_len", "ms", "sequence length", "ms")
