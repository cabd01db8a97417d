"""Generated parts of README.md: between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replaced(readme: str, name: str, text: str) -> str:
    """`readme` with the part between the markers of `name` exchanged; ValueError where they are not there once."""
    begin, end = f"<!-- {name}:begin -->\n", f"\n<!-- {name}:end -->"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ValueError(f"README.md: expected the markers of {name} exactly once")
    head, rest = readme.split(begin)
    return head + begin + text + end + rest.split(end)[1]


def main(name: str, script: str, text: str) -> None:
    """--check fails where README.md differs from `text`, --write puts it there; neither prints it."""
    parser = argparse.ArgumentParser(description=f"Generated part {name} of README.md.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="exit with 1 where README.md is not current")
    mode.add_argument("--write", action="store_true", help="bring README.md up to date")
    options = parser.parse_args()
    if not options.check and not options.write:
        print(text)
        return
    before = README.read_text()
    after = replaced(before, name, text)
    if options.write:
        README.write_text(after)
    elif before != after:
        sys.exit(f"README.md: the part {name} is not current; run `python {script} --write`")
