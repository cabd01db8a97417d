"""How the time of linear patterns grows with the length."""

from __future__ import annotations

import fnmatch

from . import catalogue, report

COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "short_ms": "ms",
    "long_ms": "ms, four times as long",
    "ratio": "ratio / 4",
    "wanted": "wanted at most",
    "met": "met",
}
LENGTHS = (32768, 131072)
WANTED = 1.05


def find(names: list[str]) -> list[str]:
    """The linear patterns with these names or shell patterns. ValueError for one that names none."""
    found = []
    for name in names:
        matches = [label for label in catalogue.LINEAR if fnmatch.fnmatchcase(label, name)]
        if not matches:
            raise ValueError(f"no linear pattern is called {name!r}; expected one of {', '.join(catalogue.LINEAR)}")
        found += matches
    return list(dict.fromkeys(found))


def problems(labels: list[str]) -> list[catalogue.Problem]:
    return [catalogue.PROBLEMS[f"{label} N{length}"] for label in labels for length in LENGTHS]


def rows(labels: list[str], found: list[dict], words: list[object]) -> list[dict]:
    """From the rows of problems(labels): time at the long length as a multiple of that at the short one.

    words: the options that repeat a row, without the pattern's name and direction.
    """
    times = {(row["problem"], row["pass"]): float(row["ms"]) for row in found if row.get("ms")}
    growth = LENGTHS[1] / LENGTHS[0]
    result = []
    for label in labels:
        for direction in dict.fromkeys(row["pass"] for row in found):
            short, long = (times.get((f"{label} N{length}", direction)) for length in LENGTHS)
            if short is None or long is None:
                continue
            ratio = f"{long / short / growth:.3f}"
            result.append(
                {
                    "problem": label,
                    "pass": direction,
                    "peer": "splash",
                    "short_ms": report.number(short),
                    "long_ms": report.number(long),
                    "ratio": ratio,
                    "wanted": WANTED,
                    "met": "yes" if float(ratio) <= WANTED else "no",
                    "command": report.command(["scaling", label, "--direction", direction, *words]),
                }
            )
    return result
