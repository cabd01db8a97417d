"""The GPU tests on a machine with a GPU: counts, and the largest shares of the error bounds.

python tests/gpu_check.py                 pytest -m gpu
python tests/gpu_check.py --memcheck      a small set of calls, to be run under a memory checker
python tests/gpu_check.py --sanitize      the same set under compute-sanitizer, one tool after the other
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent
# A test module that another machine lacks a package for must not keep the others from running.
OPTIONS = ("-m", "gpu", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors")
TOOLS = ("memcheck", "racecheck", "synccheck")


def run_tests(arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", ROOT / "tests", *OPTIONS, *arguments], cwd=ROOT, check=False
    ).returncode


def run_calls():
    sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "memory")]
    import cuda_calls
    import torch

    count = cuda_calls.run()
    torch.cuda.synchronize()
    print(count, "calls done", flush=True)


def run_sanitizer(tools):
    """Torch's caching allocator is off, so that every tensor is an allocation of its own to the checker."""
    environment = dict(os.environ, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    worst = 0
    for tool in tools:
        print(f"compute-sanitizer --tool {tool}", flush=True)
        checker = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
        program = [sys.executable, __file__, "--memcheck"]
        worst |= subprocess.run([*checker, *program], env=environment, check=False).returncode
    return worst


def main(
    memcheck: Annotated[bool, typer.Option(help="Only make the chosen calls.")] = False,
    sanitize: Annotated[bool, typer.Option(help="Make them under compute-sanitizer.")] = False,
    tool: Annotated[list[str] | None, typer.Option(help="Tools for --sanitize; all by default.")] = None,
    pytest_arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to pytest, after --.")] = None,
):
    """Exit code 0 where everything passed."""
    if memcheck:
        run_calls()
    elif sanitize:
        raise typer.Exit(run_sanitizer(tool or TOOLS))
    else:
        raise typer.Exit(run_tests(pytest_arguments or []))


if __name__ == "__main__":
    typer.run(main)
