"""The commands whose problems are fixed or have names: run, table, scaling, deterministic, host, metadata, ..."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated

import torch
import typer
from rich.table import Table

from . import (
    catalogue,
    deterministic,
    host,
    measure,
    metadata,
    named,
    problems,
    report,
    rows,
    run,
    scaling,
    tables,
    train,
)
from .families import FAMILIES
from .options import (
    AlphaOption,
    BatchOption,
    Direction,
    HeadsOption,
    LengthOption,
    choice_of,
    chosen,
    command,
    dtype_for,
    make_plan,
    measured,
    parameters,
    sized,
    timed,
)
from .peers import PEERS, choose
from .sizes import Sizes

# On the CPU dense SDPA would take the better part of an hour; --peer sdpa asks for it.
TRAINED = ("device", "peer", "out", "plot", "check")
LONG_PEERS = {"cpu": ["splash"], "cuda": ["splash", "sdpa-cudnn"]}


TrainedPattern = choice_of("TrainedPattern", train.PATTERNS)


def register(app: typer.Typer) -> None:
    """Adds the commands to `bench`."""
    command(app, "run", "Problems by their names.", parameters(which, measured, timed) + _seeded(), run_named)
    command(
        app,
        "table",
        "splash beside the fastest peers; in a checkout the problems that owe something on an H200, with what is met.",
        parameters(which_of_table, measured, timed) + _seeded(),
        run_table,
    )
    command(
        app,
        "scaling",
        "Linear patterns at 131072 positions against four times their time at 32768.",
        parameters(which_linear)
        + _changed(_without(parameters(measured, timed), "plot", "peer"), direction=Direction.fwd),
        run_scaling,
    )
    command(
        app,
        "deterministic",
        "Backwards that repeat bit for bit against the others, and the memory of both beside their tensors.",
        parameters(which_of_backwards) + _without(parameters(measured, timed), "plot", "peer", "direction", "check"),
        run_deterministic,
    )
    command(
        app,
        "host",
        "Host time of one Python call with prepared metadata, against SDPA's own call.",
        parameters(host_options) + _only(parameters(measured, timed), "device", "out", "rounds"),
        run_host,
    )
    command(
        app,
        "metadata",
        "Device time of building block lists, for the forward and for both passes.",
        parameters(metadata_options) + _only(parameters(measured, timed), "device", "direction", "out", "rounds"),
        run_metadata,
    )
    command(
        app,
        "train",
        "A GPT over bytes trained once a peer, from equal weights on equal batches: losses, and tokens a second.",
        parameters(train_options) + _only(parameters(measured, timed), *TRAINED) + _seeded(),
        run_train,
    )
    command(
        app,
        "128k",
        "131072 positions: dense, window, BigBird and dilated, with sparsity and speed-up.",
        _changed(parameters(sized), seq_len=131072, heads=1) + _changed(parameters(measured, timed), rounds=1),
        long_table,
    )
    command(
        app,
        "cpu-ratios",
        "The ratios to causal SDPA and the memory that the CPU kernels owe (benchmarks/results/cpu.csv).",
        parameters(ratio_options),
        ratios,
    )
    command(
        app,
        "rows",
        "Row functions: entmax of plain tensors, against softmax and other packages.",
        parameters(row_options) + _without(parameters(measured, timed), "check") + _seeded(),
        row_functions,
    )
    app.command("list")(list_)


def _changed(options, **defaults):
    return [option.replace(default=defaults.get(option.name, option.default)) for option in options]


def _without(options, *names):
    return [option for option in options if option.name not in names]


def _only(options, *names):
    return [option for option in options if option.name in names]


def _seeded():
    return _only(parameters(chosen), "seed")


def which(names: Annotated[list[str], typer.Argument(help="Names of `bench list`, or shell patterns of them.")]):
    """What `bench run` takes."""


def which_of_table(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Some of them, or others of `bench list`, by name or shell pattern."),
    ] = None,
    varied: Annotated[
        bool, typer.Option("--varied", help="Other windows, head dimensions, dtypes and lengths instead of the table.")
    ] = False,
):
    """What `bench table` takes."""


def which_of_backwards(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Some of the table's, or others of `bench list`, by name or shell pattern."),
    ] = None,
):
    """What `bench deterministic` takes."""


def which_linear(
    names: Annotated[list[str] | None, typer.Argument(help="Some of them, by name or shell pattern.")] = None,
):
    """What `bench scaling` takes."""


def _targets() -> ModuleType | None:
    """The module of what is owed; None in a wheel, which leaves it out."""
    if find_spec(f"{__package__}.targets") is None:
        return None
    from . import targets

    return targets


def _owing(directions) -> list[str]:
    """The names of the table: of what owes something, or of all named problems but the varied ones."""
    targets = _targets()
    return targets.owing(directions) if targets else [problem.name for problem in catalogue.TABLE]


def _measure(chosen_problems, values, screen, plan, peers=None, directions=None, owed=True):
    """(rows of problems, columns of the machine), with the command line's seed and dtype.

    They are written to `out` as they come. owed: with what each pass owes.
    """
    machine, targets = measure.ceilings(plan.device), _targets()
    ceilings = machine.columns() if machine else {}
    if machine:
        screen.print(str(machine), highlight=False)
    columns = partial(targets.columns, machine=machine) if owed and machine and targets else None
    changes = {} if values["dtype"] == "auto" else {"dtype": values["dtype"]}
    seed = values.get("seed", 0)
    chosen_problems = [catalogue.with_seed(problem, seed, **changes) for problem in chosen_problems]
    origin = measure.origin(plan.device) | ceilings

    def save(found):
        if values["out"]:
            report.write(values["out"], [row | origin for row in found])

    found = named.rows(chosen_problems, plan, columns, screen, save, peers, directions)
    return found, ceilings


def _end(found) -> None:
    """Exit code 1 where a problem failed."""
    failed = named.failures(found)
    for row in failed:
        typer.echo(f"{row['problem']}, {row['pass']}: {row['note']}", err=True)
    if failed:
        raise typer.Exit(1)


def run_named(names, **values):
    screen, plan = report.console(), make_plan(values)
    found, ceilings = _measure(catalogue.find(names), values, screen, plan)
    run.show(screen, found)
    _plot(values["plot"], found)
    report.finish(found, plan.device, values["out"], **ceilings)
    _end(found)


def run_table(names, varied, **values):
    screen, plan = report.console(), make_plan(values)
    peers = None if values["peer"] else lambda problem: named.table_peers(problem, plan.device.type)
    owing = [problem.name for problem in catalogue.VARIED] if varied else _owing(plan.directions)
    targets = _targets()

    def directions(problem):
        return targets.owed(problem.name, plan.directions) if targets else plan.directions

    found, ceilings = _measure(catalogue.find(names or owing, owing), values, screen, plan, peers, directions)
    named.show(screen, found)
    _plot(values["plot"], found)
    report.finish(found, plan.device, values["out"], **ceilings)
    _end(found)


def run_scaling(names, out, **values):
    screen, plan = report.console(), make_plan(values, ["splash"])
    labels = scaling.find(names or ["*"])
    timed_rows, ceilings = _measure(scaling.problems(labels), values | {"out": None}, screen, plan, owed=False)
    found = scaling.rows(labels, timed_rows, plan.words())
    report.show(screen, found, scaling.COLUMNS, "Time at four times the length, over four times the time")
    report.finish(found, plan.device, out, **ceilings)
    _end(timed_rows)


def run_deterministic(names, out, **values):
    screen = report.console()
    plan = make_plan({**values, "direction": Direction.bwd, "check": False}, ["splash"])
    owing = _owing(["bwd"])
    changes = {} if values["dtype"] == "auto" else {"dtype": values["dtype"]}
    chosen_problems = [catalogue.with_seed(problem, 0, **changes) for problem in catalogue.find(names or owing, owing)]
    found = deterministic.rows(chosen_problems, plan, plan.words(), screen)
    report.show(screen, found, deterministic.COLUMNS, "Backwards, and those that repeat bit for bit")
    report.finish(found, plan.device, out)
    _end(found)


def _plot(path: Path | None, found: list[dict]) -> None:
    drawn = [row for row in found if row.get("ms")]
    if path and drawn:
        report.plot_bars(path, drawn, "ms", "ms")


def host_options(
    only: Annotated[str, typer.Option(help="Name or shell pattern of the patterns.")] = "*", seq_len: LengthOption = 64
):
    """The problems of `bench host`."""


def run_host(only, seq_len, device, out, rounds):
    screen, where = report.console(), measure.pick_device(device)
    found = host.rows(only, seq_len, where, rounds, screen)
    report.show(screen, found, host.COLUMNS, "Host time of one call")
    report.finish(found, where, out)


def metadata_options(seq_len: LengthOption = 131072):
    """The problems of `bench metadata`."""


def run_metadata(seq_len, device, direction, out, rounds):
    screen, where = report.console(), measure.pick_device(device)
    directions = ["fwd", "bwd"] if direction == "both" else [direction]
    found = metadata.rows(seq_len, directions, where, rounds, screen)
    report.show(screen, found, metadata.COLUMNS, "Time to build metadata")
    report.finish(found, where, out)


def train_options(
    pattern: Annotated[TrainedPattern, typer.Option(help="Of the attention; streaming: sinks and a window.")] = (
        TrainedPattern.causal
    ),
    sink: Annotated[int, typer.Option(min=0, help="First keys that streaming keeps.")] = 16,
    window: Annotated[int, typer.Option(min=1, help="Last keys that streaming keeps.")] = 1024,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 1000,
    batch: BatchOption = 8,
    seq_len: LengthOption = 1024,
    layers: Annotated[int, typer.Option(min=1, help="Of the model.")] = 12,
    heads: HeadsOption = 12,
    width: Annotated[int, typer.Option(min=1, help="Features of a position.")] = 768,
    curves: Annotated[Path | None, typer.Option(help="CSV file to write every step's loss to.")] = None,
):
    """The model of `bench train`, and how long it is trained."""


def run_train(pattern, curves, device, peer, out, plot, check, **values):
    screen, where = report.console(), measure.pick_device(device)
    dtype = dtype_for({"dtype": "auto"}, where.type)
    setup = train.setup(pattern, dtype=dtype, **values)
    chosen_peers = choose(peer or train.PEERS[pattern][where.type], where.type)
    found = train.curves(setup, chosen_peers, where, check, screen)
    options = {"pattern": pattern, **values, "device": where.type}
    words = ["train", *(word for name, value in options.items() for word in problems.option_words(name, value))]
    summary = train.rows(setup, found, words)
    report.show(screen, summary, train.COLUMNS)
    if curves:
        report.write(curves, train.steps(setup, found))
    if plot and found:
        report.plot_losses(plot, {curve.peer: curve.losses for curve in found}, train.SMOOTH)
    report.finish(summary, where, out)


def long_table(out, plot, **values):
    screen = report.console()
    plan = make_plan(values, LONG_PEERS)
    kv_heads = values["kv_heads"] or values["heads"]
    sizes = Sizes(
        values["batch"],
        values["heads"],
        kv_heads,
        values["seq_len"],
        values["head_dim"],
        dtype_for(values, plan.device.type),
        values["queries"],
    )
    peers = [word for peer in plan.peers for word in ("--peer", peer.name)]
    words = ["128k", *sizes.words(), *peers, "--direction", values["direction"], *plan.words()]
    found = tables.long_rows(sizes, plan, words, screen)
    report.show(screen, found, tables.LONG_COLUMNS, f"N {sizes.seq_len}: speed-up over the fastest dense attention")
    if plot and found:
        report.plot_bars(plot, found, "ms", "ms")
    report.finish(found, plan.device, out)


def ratios(only, rounds, out):
    screen = report.console()
    plan = run.Plan(torch.device("cpu"), ["fwd", "bwd"], [], rounds)
    found = tables.cpu_ratios(only, plan, screen)
    if not found:
        raise ValueError(f"only: no comparison has {only!r} in its name")
    report.show(screen, found, tables.RATIO_COLUMNS, "CPU: ratios to a peer, and what is wanted")
    report.finish(found, plan.device, out)


def ratio_options(
    only: Annotated[str, typer.Option(help="Part of a comparison's name.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved repetitions; the median counts.")] = 7,
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
):
    """The options of cpu-ratios."""


def row_functions(only, rows_, columns, alpha, out, plot, **values):
    screen = report.console()
    plan = make_plan({**values, "peer": ["splash"]})
    peers = rows.choose(values["peer"] or [])
    if only and (rows_, columns, alpha, values["dtype"]) != (None, None, None, "auto"):
        raise ValueError("only: named problems have rows, columns, alpha and dtype of their own; leave those out")
    if only:
        problems_ = [replace(found, seed=values["seed"]) for found in rows.find(only, plan.device.type)]
    else:
        dtype = "float32" if values["dtype"] == "auto" else values["dtype"]
        alpha = 1.5 if alpha is None else alpha
        problems_ = [rows.sized(rows_ or 8192, columns or 1024, alpha, dtype, values["seed"])]
    machine = measure.ceilings(plan.device)
    ceilings = machine.columns() if machine else {}
    if machine:
        screen.print(str(machine), highlight=False)
    origin = measure.origin(plan.device) | ceilings

    def save(found):
        if out:
            report.write(out, [row | origin for row in found])

    found = rows.rows(problems_, plan, peers, screen, save)
    report.show(screen, found, rows.COLUMNS)
    report.repeat_hint(screen, found)
    _plot(plot, found)
    report.finish(found, plan.device, out, **ceilings)


def row_options(
    only: Annotated[
        list[str] | None, typer.Option(help="Named problems of the row functions, by name or shell pattern.")
    ] = None,
    rows_: Annotated[int | None, typer.Option("--rows", min=1, help="Rows, 8192 by default.")] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="Columns, 1024 by default.")] = None,
    alpha: AlphaOption = None,
):
    """The sizes of the row functions, or their names."""


def list_() -> None:
    """Name the families, the problems of `run`, and the peers."""
    screen = report.console()
    table = Table("family", "numbers", "", title="Families: `bench FAMILY`, `bench sweep FAMILY`, ...")
    for family in FAMILIES.values():
        numbers = " ".join(
            word for name, value in family.defaults().items() for word in problems.option_words(name, value)
        )
        table.add_row(family.name, numbers, family.help)
    screen.print(table)
    table = Table("peer", "", "here", title="Peers")
    for peer in PEERS.values():
        table.add_row(peer.name, peer.about, peer.missing() or "yes")
    screen.print(table)
    table = Table("problem", "sizes", "family", title="Problems: `bench run NAME`")
    for problem in catalogue.PROBLEMS.values():
        table.add_row(problem.name, str(problem.sizes), problem.family.name)
    screen.print(table)
