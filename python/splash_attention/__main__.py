"""`python -m splash_attention info`, `demo` and `bench`.

`info` needs nothing but Torch. What the others need beside it is the extra `demo`.
"""

from __future__ import annotations

import sys

EXTRA = {"matplotlib", "rich", "typer"}  # what the extra `demo` of pyproject.toml brings
USAGE = """usage: python -m splash_attention COMMAND

  info   Show version, build, devices and the compiled instances.
  demo   Train a small transformer on splash, and try every pattern and normalizer.
  bench  Time splash and its peers.
"""


def main() -> int:
    """The exit code. 2 where a package is missing that the command needs."""
    try:
        from .cli import app

        app(prog_name="python -m splash_attention")
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        return without(package, sys.argv[1:])
    return 0


def without(package: str, arguments: list[str]) -> int:
    """The command line where `package` is missing."""
    command = arguments[0] if arguments else "--help"
    if arguments == ["info"]:
        from .info import show

        show()
        return 0
    wanted = f'{package} is missing: pip install "splash-attention[demo]", or ".[demo]" in the repository, brings it'
    if command in ("--help", "-h"):
        print(f"{USAGE}\n`demo` and `bench` need the extra `demo` ({wanted}).")
        return 0
    print(f"splash: `{command}` needs the extra `demo`; {wanted}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
