"""The results of README.md, from the CSV files in benchmarks/results."""

from __future__ import annotations

import csv
from pathlib import Path

import markers

RESULTS = markers.ROOT / "benchmarks" / "results"
ORIGIN = ("machine", "torch", "commit", "date")
UNITS = {"tflops": "TFLOP/s over kept scores", "gb_s": "GB/s of bytes read once and written once"}


def distinct(rows: list[dict], column: str) -> str:
    return ", ".join(dict.fromkeys(row[column] for row in rows))


def by_peer(rows: list[dict], who: str, rate: str) -> str:
    """One line a problem and pass, one column a peer, for the lines that splash has a time in."""
    peers = list(dict.fromkeys(row[who] for row in rows))
    lines: dict[tuple[str, str], dict[str, dict]] = {}
    for row in rows:
        lines.setdefault((row["problem"], row["pass"]), {})[row[who]] = row

    def cell(row: dict | None) -> str:
        return f"{float(row['ms']):.3f} ms, {float(row[rate]):.0f}" if row else ""

    return markers.markdown_table(
        ("problem", "pass", *peers),
        ((*key, *(cell(found.get(name)) for name in peers)) for key, found in lines.items() if "splash" in found),
    )


def as_written(rows: list[dict]) -> str:
    """The columns of the file, without those that say where a row comes from."""
    columns = [name for name in rows[0] if name not in (*ORIGIN, "command")]
    return markers.markdown_table(
        [name.replace("_", " ") for name in columns], ([row[name] for name in columns] for row in rows)
    )


def repeat(row: dict) -> str:
    """The command of a row, with its problem and pass as placeholders."""
    command = row["command"]
    for column, placeholder in (("problem", "PROBLEM"), ("pass", "PASS")):
        if row[column] in command:
            command = command.replace(row[column], placeholder)
    return f"`{command}`"


def section(path: Path) -> str:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rate = next((column for column in UNITS if column in rows[0]), None)
    unit = f" Cells: milliseconds, {UNITS[rate]}." if rate else ""
    who = "peer" if "peer" in rows[0] else "contender"
    origin = f"{distinct(rows, 'machine')}, Torch {distinct(rows, 'torch')}, commit {distinct(rows, 'commit')}"
    source = (
        f"[{path.name}](benchmarks/results/{path.name}): {origin}, {distinct(rows, 'date')}.{unit} Each row of the "
        f"file has the command that repeats it, like {repeat(rows[0])}."
    )
    return f"{source}\n\n{by_peer(rows, who, rate) if rate else as_written(rows)}"


def results() -> str:
    files = sorted(RESULTS.glob("*.csv"))
    return "\n\n".join(map(section, files)) if files else "No results are committed yet."


if __name__ == "__main__":
    markers.main("results", "tools/results_table.py", results())
