"""Generated parts of Markdown pages: between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replaced(page: str, name: str, text: str) -> str:
    """`page` with the part between the markers of `name` exchanged; ValueError where they are not there once."""
    begin, end = f"<!-- {name}:begin -->\n", f"\n<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"expected the markers of {name} exactly once in the page")
    head, rest = page.split(begin)
    return head + begin + text + end + rest.split(end)[1]


def main(script: str, parts: Mapping[tuple[str, str], str]) -> None:
    """parts: the text of each (page, name), pages as paths from the root. --check fails where a page differs from
    them, --write puts them there; neither prints them."""
    parser = argparse.ArgumentParser(description=", ".join(f"{name} of {page}" for page, name in parts))
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="exit with 1 where a page is not current")
    mode.add_argument("--write", action="store_true", help="bring the pages up to date")
    options = parser.parse_args()
    if not options.check and not options.write:
        print("\n\n".join(parts.values()))
        return
    stale = []
    for (page, name), text in parts.items():
        before = (ROOT / page).read_text()
        after = replaced(before, name, text)
        if options.write:
            (ROOT / page).write_text(after)
        elif before != after:
            stale.append(f"{page}: the part {name} is not current; run `python {script} --write`")
    if stale:
        sys.exit("\n".join(stale))
