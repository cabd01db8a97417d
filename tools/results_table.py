"""The results of README.md, from the CSV files in benchmarks/results; the pictures are tools/draw_results.py's."""

from __future__ import annotations

import csv
from pathlib import Path

import markers

RESULTS = markers.ROOT / "benchmarks" / "results"
PICTURES = markers.ROOT / "docs" / "pictures" / "results"
TILES = {"fwd": "600 TFLOP/s", "bwd": "480 TFLOP/s in the backward"}
ORIGIN = ("machine", "torch", "commit", "date", "machine_matmul_tflops", "machine_copy_tbs")
UNITS = {"tflops": "TFLOP/s over kept scores", "gb_s": "GB/s of bytes read once and written once"}
OWED = (
    "A floor is what the bytes take at the rate of a copy or the non-empty 64 x 64 tiles at {tiles}, whichever is "
    "longer. What must be reached, and the aim, are those of an H200 with a matrix product of 788 TFLOP/s and a copy "
    "of 4.27 TB/s, scaled to this run's {product} TFLOP/s and {copy} TB/s; met says which of them was."
)


def read(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def distinct(rows: list[dict], column: str) -> str:
    return ", ".join(dict.fromkeys(row[column] for row in rows))


def by_peer(rows: list[dict], who: str, rate: str) -> str:
    """One line a problem and pass, one column a peer, and what is owed, for the lines that splash has a time in."""
    peers = list(dict.fromkeys(row[who] for row in rows))
    lines: dict[tuple[str, str], dict[str, dict]] = {}
    for row in rows:
        if row["ms"]:
            lines.setdefault((row["problem"], row["pass"]), {})[row[who]] = row
    found = [(key, line) for key, line in lines.items() if "splash" in line]
    owed = ("floor, ms", "must", "aim", "met") if any(row.get("met") for row in rows) else ()
    return markers.markdown_table(
        ("problem", "pass", *peers, *owed),
        (
            (*key, *(time(line.get(name), rate) for name in peers), *(targets(line["splash"]) if owed else ()))
            for key, line in found
        ),
    )


def time(row: dict | None, rate: str) -> str:
    if not row:
        return ""
    other = row.get("computes", "same") != "same"
    return f"{float(row['ms']):.3f} ms, {row['computes'] if other else f'{float(row[rate]):.0f}'}"


def targets(row: dict) -> tuple[str, str, str, str]:
    write = {"tflops": "{:.0f} TFLOP/s", "ms": "{:.3f} ms"}.get(row["unit"], "").format
    must, aim = (write(float(row[column])) if row[column] else "" for column in ("must", "aim"))
    floor = f"{float(row['floor_ms']):.3f}" if row["floor_ms"] else ""
    return floor, must, aim, row["met"]


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
    rows = read(path)
    rate = next((column for column in UNITS if column in rows[0]), None)
    unit = f" Cells: milliseconds, {UNITS[rate]}." if rate else ""
    who = "peer" if "peer" in rows[0] else "contender"
    origin = f"{distinct(rows, 'machine')}, Torch {distinct(rows, 'torch')}, commit {distinct(rows, 'commit')}"
    source = (
        f"[{path.name}](benchmarks/results/{path.name}): {origin}, {distinct(rows, 'date')}.{unit} Each row of the "
        f"file has the command that repeats it, like {repeat(rows[0])}."
    )
    if any(row.get("met") for row in rows) and rate:
        passes = dict.fromkeys(row["pass"] for row in rows if row["met"])
        tiles = " or ".join(TILES[name] for name in TILES if name in passes)
        product, copy = (distinct(rows, column) for column in ("machine_matmul_tflops", "machine_copy_tbs"))
        source += " " + OWED.format(tiles=tiles, product=product, copy=copy)
    picture = PICTURES / f"{path.stem}.png"
    if picture.exists():
        source += f"\n\n![{path.stem}]({picture.relative_to(markers.ROOT)})"
    return f"{source}\n\n{by_peer(rows, who, rate) if rate else as_written(rows)}"


def results() -> str:
    files = sorted(RESULTS.glob("*.csv"))
    return "\n\n".join(map(section, files)) if files else "No results are committed yet."


if __name__ == "__main__":
    markers.main("results", "tools/results_table.py", results())
