"""Compiler launcher: runs the command given (nvcc, or ccache and nvcc) and fails where a kernel lost speed.

Fatal is what ptxas says of serialised wgmma (C7510 and its like), register spills and stack frames. ccache replays what
nvcc printed, so a cached object is judged like a fresh one. What ptxas says of sound kernels is shown only where
SPLASH_PTXAS_VERBOSE is set.
"""

import os
import re
import subprocess
import sys

FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
OWNER = re.compile(r"(?:Function properties for|Compiling entry function) '?([\w$.]+)'?")
CHATTER = re.compile(r"^ptxas info|bytes stack frame, |^\s*$")


def shorten(name: str) -> str:
    """Both ends of a mangled kernel name, which tell instances apart: it may have thousands of characters."""
    return name if len(name) <= 360 else f"{name[:160]}...{name[-200:]}"


def faults(output: str) -> list[str]:
    """The complaints about one compilation, each naming its function."""
    found = []
    function = "?"
    for line in output.splitlines():
        if owner := OWNER.search(line):
            function = owner[1]
        if "instructions are serialized" in line:
            found.append(f"serialised wgmma: {shorten(line.strip())}")
        elif (frame := FRAME.search(line)) and any(int(size) for size in frame.groups()):
            found.append(f"{frame[0]} in {shorten(function)}")
    return found


def main(command: list[str]) -> int:
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    verbose = bool(os.environ.get("SPLASH_PTXAS_VERBOSE"))
    for line in run.stdout.splitlines():
        if verbose or not CHATTER.search(line):
            print(line)
    if run.returncode:
        return run.returncode
    found = faults(run.stdout)
    for fault in found:
        print(f"check_ptxas: error: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main([argument for argument in sys.argv[1:] if argument]))
