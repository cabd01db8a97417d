"""`python -m splash_attention info`, and the doors to `demo` and `bench` of the package splash_bench.

`info` needs nothing but Torch. A wheel brings splash_bench along, and the extras `bench` and `demo` what that imports;
in a checkout it lies in benchmarks/.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

PROGRAM = "python -m splash_attention"
COMMANDS = {
    "info": "Show version, build, devices and the compiled instances.",
    "demo": "Train a small transformer on splash, and try every pattern and normalizer.",
    "bench": "Time splash and its peers.",
}
BENCH = "splash_bench"
EXTRA = {"matplotlib", "rich", "typer"}  # what the extras `bench` and `demo` of pyproject.toml bring
CHECKOUT = Path(__file__).resolve().parents[2] / "benchmarks"


def main(arguments: list[str]) -> int:
    """The exit code: 2 where a package is missing that the command needs, or the command makes no sense."""
    if arguments and arguments[0] in ("demo", "bench"):
        return _through_the_door(arguments)
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # which breaks no command in two
        epilog=f"`demo` and `bench` need the extra of their name:\n{_install('demo')}",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == "info":
            command.add_argument(
                "--tuning", action="store_true", help="show the tile and schedule numbers of GPU kernels"
            )
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    from .info import show, show_tuning

    (show_tuning if given.tuning else show)()
    return 0


def _through_the_door(arguments: list[str]) -> int:
    command = arguments[0]
    if (CHECKOUT / BENCH).is_dir():  # before an installed one, which may be another version
        sys.path.insert(0, str(CHECKOUT))
    try:
        from splash_bench.cli import app

        app(arguments, prog_name=PROGRAM)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package == BENCH and importlib.util.find_spec(BENCH) is None:
            wanted = f"the package {BENCH}, which wheels and benchmarks/ of a checkout hold; neither is here"
        elif package in EXTRA:
            wanted = f"the extra `{command}`; {package} is missing: {_install(command)}"
        else:
            raise
        print(f"splash: `{command}` needs {wanted}", file=sys.stderr)
        return 2
    return 0


def _install(extra: str) -> str:
    return f'pip install "splash-attention[{extra}]", or ".[{extra}]" in the repository'
