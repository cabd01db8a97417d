"""The support matrix of README.md, from kernels/instances.json."""

from __future__ import annotations

import json

import markers

LARGEST_ALPHA = 2  # other numbers, such as the k of top-k, may be anything that makes sense
DEVICES = {"cpu": "CPU", "cuda": "CUDA, every GPU of the build", "sm90": "CUDA, Hopper (sm_90a)"}


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def pattern_names(table: dict, value) -> str:
    every = ", ".join(f"`{pattern['name']}`" for pattern in table["patterns"] if not pattern.get("internal"))
    return "; ".join(f"any `&` of up to four of {every}" if name == "any" else f"`{name}`" for name in as_list(value))


def normalizer_names(table: dict, value) -> str:
    """A row may serve another normalizer at one value of its number, or without its parameters; a number may have a
    range."""

    def describe(entry: dict) -> str:
        name = f"`{entry.get('serves', entry['name'])}`"
        if "at" in entry:
            return f"{name} at {entry['at'][0]:g}"
        if "above" in entry and entry["up_to"][0] <= LARGEST_ALPHA:
            return f"{name} above {entry['above'][0]:g} up to {entry['up_to'][0]:g}"
        return name

    entries = {entry["name"]: entry for entry in table["normalizers"]}
    names = as_list(value)
    extended = [entries[name]["extends"] for name in names if "extends" in entries[name]]
    chosen = [entries[name] for name in (*(name for name in extended if name not in names), *names)]
    # A range covers the single value that a faster row of the same normalizer serves.
    ranges = {entry["name"] for entry in chosen if "above" in entry}
    return ", ".join(describe(entry) for entry in chosen if entry.get("serves") not in ranges)


def numbers(value) -> str:
    return ", ".join("any" if number == 0 else str(number) for number in as_list(value))


def devices(row: dict) -> str:
    return "; ".join(DEVICES[arch] for arch in as_list(row["arch"]))


def matrix() -> str:
    """A row of attention as it is, patterns that stand for others only left out; other operators by their name."""
    table = json.loads((markers.ROOT / "kernels" / "instances.json").read_text())
    internal = {pattern["name"] for pattern in table["patterns"] if pattern.get("internal")}
    rows = []
    for row in table["instances"]:
        head = devices(row), ", ".join(as_list(row["pass"]))
        dtypes = ", ".join(as_list(row["dtype"]))
        if "op" in row:
            rows.append((*head, f"operator `{row['op']}`", "", dtypes, "", ""))
        elif patterns := [name for name in as_list(row["pattern"]) if name not in internal]:
            normalizers = normalizer_names(table, row["normalizer"])
            numbers_ = numbers(row["head_dim"]), numbers(row["block"])
            rows.append((*head, pattern_names(table, patterns), normalizers, dtypes, *numbers_))
    return markers.markdown_table(("device", "pass", "pattern", "normalizer", "dtype", "head dimension", "block"), rows)


if __name__ == "__main__":
    markers.main("support-matrix", "tools/support_matrix.py", matrix())
