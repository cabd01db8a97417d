"""No code of a higher instruction set may serve a lower one.

Usage: check_isa_symbols.py NAME OBJECT... -- NAME OBJECT... , the lowest instruction set first. The linker keeps the
first of equal weak symbols. So each weak symbol of the higher sets must carry the name of its set, or exist in the
lowest one, whose objects come first.
"""

import re
import subprocess
import sys

# An address of 16 digits or blanks, the kind of a symbol, its name; other lines are names of files.
WEAK = re.compile(r"[0-9a-f ]{16} [WVu] (.+)")


def weak_symbols(objects: list[str]) -> set[str]:
    listing = subprocess.run(
        ["nm", "--defined-only", "-C", *objects], capture_output=True, text=True, check=True
    ).stdout
    return {found[1] for line in listing.splitlines() if (found := WEAK.match(line))}


def main(arguments: list[str]) -> int:
    groups: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--":
            groups.append([])
        else:
            groups[-1].append(argument)
    lowest = weak_symbols(groups[0][1:])
    shared = {
        (name, symbol)
        for name, *objects in groups[1:]
        for symbol in weak_symbols(objects)
        if name not in symbol and symbol not in lowest
    }
    for name, symbol in sorted(shared):
        print(f"{name}: weak symbol outside its namespace: {symbol}")
    print(f"{len(lowest)} weak symbols in {groups[0][0]}, {len(shared)} faults in {len(groups) - 1} higher sets")
    return 1 if shared else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
