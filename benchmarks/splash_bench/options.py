"""The options that all commands of `bench` share, and what they mean together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from . import measure
from .check import WrongResult
from .choices import NORMALIZERS, Choice
from .families import Family
from .peers import choose
from .problems import INPUTS, Problem
from .run import Plan
from .sizes import DTYPES, Sizes


def choice_of(name: str, values) -> type[Enum]:
    """What an option that takes one of `values` has for a type."""
    return Enum(name, {value: value for value in values}, type=str)


Dtype = choice_of("Dtype", ("auto", *DTYPES))
Device = choice_of("Device", ("auto", "cpu", "cuda"))
Direction = choice_of("Direction", ("fwd", "bwd", "both"))
Normalizer = choice_of("Normalizer", NORMALIZERS)
Inputs = choice_of("Inputs", INPUTS)

BatchOption = Annotated[int, typer.Option(min=1, help="Sequences.")]
HeadsOption = Annotated[int, typer.Option(min=1, help="Query heads.")]
KvHeadsOption = Annotated[int | None, typer.Option(min=1, help="Key/value heads; as many as query heads by default.")]
LengthOption = Annotated[int, typer.Option(min=1, help="Positions, of queries and keys.")]
DimOption = Annotated[int, typer.Option(min=1, max=256, help="Head dimension.")]
DtypeOption = Annotated[Dtype, typer.Option(help="auto: bfloat16 on the GPU, float32 on the CPU.")]
DeviceOption = Annotated[Device, typer.Option(help="auto: the GPU where it has kernels, otherwise the CPU.")]
DirectionOption = Annotated[Direction, typer.Option(help="Forward, backward, or both.")]
PeerOption = Annotated[
    list[str] | None, typer.Option("--peer", help="A peer to run, or all; may be repeated. `bench list` names them.")
]
RoundsOption = Annotated[int, typer.Option(min=1, help="Interleaved repetitions on the CPU; the median counts.")]
RepeatOption = Annotated[int, typer.Option(min=1, help="Milliseconds for which each call is repeated on the GPU.")]
OutOption = Annotated[Path | None, typer.Option(help="CSV file to write.")]
PlotOption = Annotated[Path | None, typer.Option(help="Picture to write.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the inputs.")]
NormalizerOption = Annotated[Normalizer | None, typer.Option(help="How scores become weights.")]
AlphaOption = Annotated[
    float | None, typer.Option(min=1, max=2, help="alpha of entmax; 1 is softmax. Alone it asks for entmax.")
]
KOption = Annotated[int, typer.Option(min=1, help="How many scores top-k keeps.")]
InputsOption = Annotated[Inputs, typer.Option(help="iid1, iid4: normal scores of that deviation; local: as trained.")]
CheckOption = Annotated[bool, typer.Option(help="Compare answers with the reference before they are timed.")]


QueriesOption = Annotated[
    int | None, typer.Option(min=1, help="Queries, the last positions of the sequence; all of them by default.")
]


def sized(
    batch: BatchOption = 1,
    heads: HeadsOption = 8,
    kv_heads: KvHeadsOption = None,
    seq_len: LengthOption = 8192,
    head_dim: DimOption = 64,
    queries: QueriesOption = None,
):
    """The options that say how large a problem is."""


def chosen(
    normalizer: NormalizerOption = None,
    alpha: AlphaOption = None,
    k: KOption = 64,
    inputs: InputsOption = Inputs.iid1,
    seed: SeedOption = 0,
):
    """The options that say what is computed of which inputs."""


def measured(
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = Device.auto,
    direction: DirectionOption = Direction.both,
    peer: PeerOption = None,
    out: OutOption = None,
):
    """The options of every table."""


def timed(rounds: RoundsOption = 5, repeat_ms: RepeatOption = 100, plot: PlotOption = None, check: CheckOption = True):
    """The options of tables of times."""


def parameters(*functions: Callable) -> list[inspect.Parameter]:
    return [
        parameter
        for function in functions
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
    ]


def command(app: typer.Typer, name: str, help: str, options: list[inspect.Parameter], run: Callable) -> None:
    """Adds a command whose options are `options`; `run` is called with their values by name.

    ValueErrors, of numbers that make no sense together, become usage errors; a wrong answer of splash is exit code 1.
    """

    def wrapper(**values):
        try:
            run(**{key: value.value if isinstance(value, Enum) else value for key, value in values.items()})
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        except WrongResult as error:
            typer.echo(f"splash: {error}", err=True)
            raise typer.Exit(1) from None

    wrapper.__signature__ = inspect.Signature(
        [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    )
    wrapper.__annotations__ = {option.name: option.annotation for option in options}
    app.command(name, help=help)(wrapper)


def make_plan(values: dict, names: list[str] | dict[str, list[str]] | None = None) -> Plan:
    """The plan that the options ask for; `names` are the peers where --peer names none, by device where it differs."""
    device = measure.pick_device(values["device"])
    names = names[device.type] if isinstance(names, dict) else names
    direction = values["direction"]
    return Plan(
        device,
        ["fwd", "bwd"] if direction == "both" else [direction],
        choose(values.get("peer") or names, device.type),
        values.get("rounds", 1),
        values.get("repeat_ms", 100),
        values.get("check", True),
    )


def dtype_for(values: dict, device: str) -> str:
    return {"cpu": "float32", "cuda": "bfloat16"}[device] if values["dtype"] == "auto" else values["dtype"]


def make_problem(family: Family, values: dict, device: str) -> Problem:
    """The problem that the options of its family ask for."""
    sizes = Sizes(
        values["batch"],
        values["heads"],
        values["kv_heads"] or values["heads"],
        values.get("seq_len", values.get("to")),
        values["head_dim"],
        dtype_for(values, device),
        values["queries"],
    )
    numbers = {name: values[name] for name in family.defaults()}
    return Problem(family, numbers, sizes, make_choice(family.normalizer, values), values["inputs"], values["seed"])


def make_choice(default: str, values: dict) -> Choice:
    """--alpha alone asks for entmax, and for softmax where it is 1."""
    name, alpha = values["normalizer"], values["alpha"]
    if name is None:
        name = "entmax" if alpha is not None and default == "softmax" else default
    if alpha is None:
        alpha = 1.5 if name == "entmax" else 1
    if alpha != 1 and name not in ("entmax", "top-k"):
        raise ValueError(f"alpha: {name} has none; leave it out, or choose --normalizer entmax or top-k")
    return Choice("softmax" if name == "entmax" and alpha == 1 else name, alpha, values["k"])
