"""The command line as typer has it: `bench` and `demo`, to which `python -m splash_attention` is the door."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .commands import app as bench

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Times of splash and its peers, and a demo.")

app.add_typer(bench, name="bench")


@app.command()
def demo(
    text: Annotated[Path | None, typer.Option(help="Text to train on. Default: files of Python's library.")] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Training steps of each model. The tolerance is meant for some hundreds.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    length: Annotated[
        int | None,
        typer.Option(min=64, help="Positions in the table of patterns. Default: 2048 on the CPU, 8192 on a GPU."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("splash-demo"),
) -> None:
    """Train a small byte-level transformer on splash beside the reference, and try every pattern and normalizer.

    Exit code 1 where losses or checks deviate beyond their tolerance, 2 where the text cannot be used.
    """
    from rich.console import Console

    from .demo.main import run

    try:
        agreed = run(text, steps, seed, length, output, Console())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    if not agreed:
        raise typer.Exit(1)
