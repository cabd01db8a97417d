"""The support matrix of docs/support.md, from kernels/instances.json."""

from __future__ import annotations

import json
from collections.abc import Iterator

import markers

LARGEST_ALPHA = 2  # other numbers, such as the k of top-k, may be anything that makes sense
DEVICES = {"cpu": "CPU", "cuda": "CUDA, every GPU of the build", "sm90": "CUDA, Hopper (sm_90a)"}
ATTENTION = "attention"  # the operator of rows that name none
ANY = "any"


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


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


def cell(rows: list[dict]) -> str:
    """The head dimensions that these rows have, and the spans where they are made for some only."""
    if not rows:
        return f"through {ANY}"
    spans = dict.fromkeys(span for row in rows for span in as_list(row["span"]))
    numbers = sorted({head_dim for row in rows for head_dim in as_list(row["head_dim"])})
    head_dims = "every" if 0 in numbers else ", ".join(map(str, numbers))
    return head_dims if ANY in spans else f"{head_dims} (span {' and '.join(spans)})"


def attention_rows(table: dict) -> list[dict]:
    return [row for row in table["instances"] if row.get("op", ATTENTION) == ATTENTION]


def expanded(table: dict, arch: str) -> Iterator[tuple[str, str, str, dict]]:
    """(pattern, normalizers, pass, row) of a device; patterns that only the dispatcher asks for are left out."""
    internal = {pattern["name"] for pattern in table["patterns"] if pattern.get("internal")}
    for row in attention_rows(table):
        for pattern in as_list(row["pattern"]):
            for direction in as_list(row["pass"]):
                if arch in as_list(row["arch"]) and pattern not in internal:
                    yield pattern, normalizer_names(table, row["normalizer"]), direction, row


def device(table: dict, arch: str) -> str:
    """A line a pattern with kernels of its own, `any` last; a column what is computed, passes that agree together."""
    found = list(expanded(table, arch))
    dtypes = dict.fromkeys(dtype for *_, row in found for dtype in as_list(row["dtype"]))
    if any(as_list(row["dtype"]) != list(dtypes) for *_, row in found):
        raise ValueError(f"instances.json: rows of {arch} differ in their dtypes, which the matrix has no column for")
    patterns = [name for name in dict.fromkeys(pattern for pattern, *_ in found) if name != ANY] + [ANY]
    columns: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for normalizers, direction in dict.fromkeys((normalizers, direction) for _, normalizers, direction, _ in found):
        rows = {name: [row for *key, row in found if key == [name, normalizers, direction]] for name in patterns}
        columns.setdefault((normalizers, tuple(map(cell, rows.values()))), []).append(direction)
    header = ("pattern", *(f"{', '.join(passes)}: {normalizers}" for (normalizers, _), passes in columns.items()))
    names = [name if name == ANY else f"`{name}`" for name in patterns]
    lines = zip(names, *(cells for _, cells in columns), strict=True)
    return f"### {DEVICES[arch]}\n\nDtypes: {', '.join(dtypes)}.\n\n{markers.markdown_table(header, lines)}"


def plain_tensors(table: dict) -> Iterator[str]:
    """The operators that know no pattern: a line a row of theirs, nothing where there is none."""
    rows = [row for row in table["instances"] if row.get("op", ATTENTION) != ATTENTION]
    if rows:
        lines = (
            (
                f"`{row['op']}`",
                "; ".join(DEVICES[arch] for arch in as_list(row["arch"])),
                ", ".join(as_list(row["pass"])),
                ", ".join(as_list(row["dtype"])),
            )
            for row in rows
        )
        yield f"### Plain tensors\n\n{markers.markdown_table(('operator', 'device', 'pass', 'dtype'), lines)}"


def matrix() -> str:
    table = json.loads((markers.ROOT / "kernels" / "instances.json").read_text())
    every = ", ".join(f"`{pattern['name']}`" for pattern in table["patterns"] if not pattern.get("internal"))
    devices = dict.fromkeys(arch for row in attention_rows(table) for arch in as_list(row["arch"]))
    heading = f"{ANY.capitalize()}: up to four of {every}, joined by `&`."
    return "\n\n".join((heading, *(device(table, arch) for arch in devices), *plain_tensors(table)))


if __name__ == "__main__":
    markers.main("tools/support_matrix.py", {("docs/support.md", "support-matrix"): matrix()})
