"""benchmarks/RESULTS.md and the speed table of README.md, from the CSV files in benchmarks/results.

Targets stay in those files: what stands here is what was measured, beside the peers.
"""

from __future__ import annotations

import csv
from pathlib import Path

import markers

RESULTS = markers.ROOT / "benchmarks" / "results"
PICTURES = markers.ROOT / "docs" / "pictures" / "results"
PAGE = "benchmarks/RESULTS.md"
ORIGIN = ("machine", "torch", "commit", "date", "machine_matmul_tflops", "machine_copy_tbs")
TARGETS = ("wanted", "met")
UNITS = {"tflops": "TFLOP/s over kept scores", "gb_s": "GB/s of bytes read once and written once"}
LIMIT = "limit"  # a peer that is a target

# Of each file: its title, and what its figures mean.
SUBJECTS = {
    "cpu": (
        "On a CPU",
        "The ratio says how many times as long the peer takes; causal SDPA computes all earlier keys.",
    ),
    "h200": ("On an H200", "The ratio says how many times as long the fastest peer takes."),
    "h200_deterministic": (
        "A backward that repeats bit for bit",
        "The ratio says how many times as long `deterministic=True` takes; memory beside the tensors of the call.",
    ),
    "h200_entmax": (
        "1.5-entmax in attention",
        "The peer computes dense softmax; a ratio below 1 says that it is faster.",
    ),
    "h200_host": ("Host time of a call", "64 tokens; the ratio says how many times as long splash takes."),
    "h200_metadata": (
        "Building block lists",
        "`ms` is the device's time, `launched ms` that until the host is free again.",
    ),
    "h200_rows": ("Entmax of plain tensors", "Torch's softmax computes softmax, which needs less arithmetic."),
    "h200_scaling": (
        "Four times the length",
        "The ratio says how many times as long the long problem takes, divided by four.",
    ),
    "h200_training": ("Training a GPT over bytes", "`apart` is the largest distance of smoothed losses from splash's."),
}

# What README shows: file, problem, pass, peer, and the words for the problem and the peer.
SPEED = (
    ("h200", "D128 causal B2 H16 N8192", "fwd", "sdpa-cudnn", "H200, causal, 8k, D128, bf16, forward", "SDPA (cuDNN)"),
    ("h200", "bigbird b64 w3 g2 r3 N32768", "bwd", "flex", "H200, BigBird, 32k, bf16, backward", "FlexAttention"),
    (
        "cpu",
        "window256-causal N8192 B1 H8 D64 float32",
        "fwd",
        "causal SDPA",
        "2 CPU threads, window 256, 8k, fp32, forward",
        "causal SDPA, which has no window",
    ),
    (
        "h200_entmax",
        "a1.5 causal iid1 B2 H16 N8192 D64",
        "fwd",
        "sdpa-cudnn",
        "H200, 1.5-entmax, causal, 8k, D64, bf16, forward",
        "dense softmax (cuDNN)",
    ),
)


def read(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def distinct(rows: list[dict], column: str) -> str:
    return ", ".join(dict.fromkeys(row[column] for row in rows))


def milliseconds(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") + " ms"


def times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def by_peer(rows: list[dict], who: str, rate: str) -> str:
    """One line a problem and pass, one column a peer, and the fastest peer's time over splash's, for the lines that
    splash has a time in."""
    peers = list(dict.fromkeys(row[who] for row in rows))
    lines: dict[tuple[str, str], dict[str, dict]] = {}
    for row in rows:
        if row["ms"]:
            lines.setdefault((row["problem"], row["pass"]), {})[row[who]] = row
    return markers.markdown_table(
        ("problem", "pass", *peers, "ratio"),
        (
            (*key, *(time(line.get(name), rate) for name in peers), to_fastest(line))
            for key, line in lines.items()
            if "splash" in line
        ),
    )


def time(row: dict | None, rate: str) -> str:
    if not row:
        return ""
    other = row.get("computes", "same") != "same"
    return f"{float(row['ms']):.3f} ms, {row['computes'] if other else f'{float(row[rate]):.0f}'}"


def to_fastest(line: dict[str, dict]) -> str:
    others = [float(row["ms"]) for name, row in line.items() if name != "splash"]
    return times(min(others) / float(line["splash"]["ms"])) if others else ""


def as_written(rows: list[dict]) -> str:
    """The columns of the file, without targets and those that say where a row comes from."""
    columns = [name for name in rows[0] if name not in (*ORIGIN, *TARGETS, "command")]

    def cell(row: dict, name: str) -> str:
        target = name in ("peer", "peer_value", "ratio") and row.get("peer") == LIMIT
        return "" if target else row[name]

    return markers.markdown_table(
        [name.replace("_", " ") for name in columns], ([cell(row, name) for name in columns] for row in rows)
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
    title, meaning = SUBJECTS.get(path.stem, (path.stem, ""))
    rate = next((column for column in UNITS if column in rows[0]), None)
    who = "peer" if "peer" in rows[0] else "contender"
    cells = f" Cells: milliseconds, {UNITS[rate]}." if rate else ""
    machine = f"{distinct(rows, 'machine')}, Torch {distinct(rows, 'torch')}"
    if rows[0].get("machine_matmul_tflops"):
        product, copy = (distinct(rows, column) for column in ("machine_matmul_tflops", "machine_copy_tbs"))
        machine += f", a matrix product of {product} TFLOP/s and a copy of {copy} TB/s in the same run"
    origin = f"{machine}; commit {distinct(rows, 'commit')}, {distinct(rows, 'date')}"
    text = (
        f"## {title}\n\n{meaning}{cells} {origin}. Each row of [{path.name}](results/{path.name}) has the command that "
        f"repeats it, like {repeat(rows[0])}."
    )
    picture = PICTURES / f"{path.stem}.png"
    if picture.exists():
        text += f"\n\n![{title}](../{picture.relative_to(markers.ROOT)})"
    return f"{text}\n\n{by_peer(rows, who, rate) if rate else as_written(rows)}"


def results() -> str:
    return "\n\n".join(map(section, sorted(RESULTS.glob("*.csv"))))


def speed() -> str:
    """README's figures, and below them the command of each."""
    lines, commands = [], []
    for file, problem, direction, peer, words, peer_words in SPEED:
        rows = [r for r in read(RESULTS / f"{file}.csv") if (r["problem"], r["pass"]) == (problem, direction)]
        (other,) = (row for row in rows if row["peer"] == peer)
        own = (
            float(other["splash"]) if "splash" in other else float(next(r["ms"] for r in rows if r["peer"] == "splash"))
        )
        theirs = float(other["peer_value"] if "splash" in other else other["ms"])
        faster = f"**{times(theirs / own)} x**" if theirs >= own else f"{times(theirs / own)} x"
        lines.append((words, milliseconds(own), f"{peer_words}: {milliseconds(theirs)}", faster))
        commands.append(other["command"])
    table = markers.markdown_table(("problem", "splash", "peer", "speed"), lines)
    return f"{table}\n\nEach line is repeated by\n\n```sh\n" + "\n".join(commands) + "\n```"


if __name__ == "__main__":
    markers.main("tools/results_table.py", {("README.md", "speed"): speed(), (PAGE, "results"): results()})
