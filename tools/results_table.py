"""The results of README.md, from the CSV files in benchmarks/results."""

from __future__ import annotations

import csv
from pathlib import Path

import markers

RESULTS = markers.ROOT / "benchmarks" / "results"
ORIGIN = ("machine", "torch", "commit", "date")


def distinct(rows: list[dict], column: str) -> str:
    return ", ".join(dict.fromkeys(row[column] for row in rows))


def by_peer(rows: list[dict]) -> str:
    """One line a problem and pass, one column a peer; the command is that of splash's own row."""
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    lines: dict[tuple[str, str], dict[str, dict]] = {}
    for row in rows:
        lines.setdefault((row["problem"], row["pass"]), {})[row["peer"]] = row

    def cell(row: dict | None) -> str:
        return f"{float(row['ms']):.3f} ms, {float(row['tflops']):.0f}" if row else ""

    return markers.markdown_table(
        ("problem", "pass", *peers, "repeat with"),
        (
            (*key, *(cell(found.get(name)) for name in peers), f"`{found['splash']['command']}`")
            for key, found in lines.items()
            if "splash" in found
        ),
    )


def as_written(rows: list[dict]) -> str:
    """The columns of the file, without those that say where a row comes from."""
    columns = [name for name in rows[0] if name not in (*ORIGIN, "command")]
    header = (*(name.replace("_", " ") for name in columns), "repeat with")
    return markers.markdown_table(header, ((*(row[name] for name in columns), f"`{row['command']}`") for row in rows))


def section(path: Path) -> str:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    pivot = "tflops" in rows[0]
    unit = " Cells: milliseconds, TFLOP/s over kept scores." if pivot else ""
    origin = f"{distinct(rows, 'machine')}, Torch {distinct(rows, 'torch')}, commit {distinct(rows, 'commit')}"
    source = f"[{path.name}](benchmarks/results/{path.name}): {origin}, {distinct(rows, 'date')}.{unit}"
    return f"{source}\n\n{by_peer(rows) if pivot else as_written(rows)}"


def results() -> str:
    files = sorted(RESULTS.glob("*.csv"))
    return "\n\n".join(map(section, files)) if files else "No results are committed yet."


if __name__ == "__main__":
    markers.main("results", "tools/results_table.py", results())
