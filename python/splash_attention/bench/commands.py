"""`python -m splash_attention bench ...`: every command."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from . import limits, measure, problems, report, rows, run, sweeps, tables
from .families import FAMILIES, Family
from .options import (
    AlphaOption,
    chosen,
    command,
    dtype_for,
    make_plan,
    make_problem,
    measured,
    parameters,
    sized,
    timed,
)
from .peers import PEERS
from .problems import Sizes

app = typer.Typer(
    no_args_is_help=True,
    help="Times of splash and its peers over named problems or explicit sizes; every answer is checked first.",
)
DEFAULT_FAMILY = "window"
# On the CPU dense SDPA would take the better part of an hour; --peer sdpa asks for it.
LONG_PEERS = {"cpu": ["splash"], "cuda": ["splash", "sdpa-cudnn"]}
MEMORY_PEERS = ["splash", "sdpa", "torch-dense"]


class OverFamilies(TyperGroup):
    """A group with a command for each family; without a family's name it is that of DEFAULT_FAMILY."""

    def parse_args(self, ctx, args):
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [DEFAULT_FAMILY, *args]
        return super().parse_args(ctx, args)


def console() -> Console:
    return Console(soft_wrap=False)


def finish(found: list[dict], device: torch.device, out: Path | None, **columns: object) -> None:
    """Writes the CSV; exit code 1 where nothing ran."""
    if out:
        report.write(out, [row | columns | measure.origin(device) for row in found])
    if not found:
        raise typer.Exit(1)


def repeat_hint(screen: Console, found: list[dict]) -> None:
    if found:
        screen.print("Each row is repeated by its command, for example:", highlight=False)
        screen.print(found[0]["command"], highlight=False, soft_wrap=True, markup=False)


def add_family(family: Family) -> None:
    def one(out, plot, **values):
        screen, plan = console(), make_plan(values)
        problem = make_problem(family, values, plan.device.type)
        found = run.measure_problem(problem, plan, screen)
        run.show(screen, found)
        repeat_hint(screen, found)
        if plot and found:
            report.plot_bars(plot, found, "ms", "ms")
        finish(found, plan.device, out)

    options = parameters(sized, chosen, measured, timed) + family.parameters
    command(app, family.name, family.help, options, one)


def add_sweep(group: typer.Typer, verb: str, family: Family, first: int, last: int) -> None:
    def sweep(out, plot, **values):
        screen = console()
        plan = make_plan(values)
        if values["to"] < values["from_"]:
            raise ValueError(f"to: expected at least --from {values['from_']}, got {values['to']}")
        problem = make_problem(family, values, plan.device.type)
        found = sweeps.rows(verb, problem, sweeps.doubling(values["from_"], values["to"]), plan, screen)
        sweeps.show(screen, found, problem.label)
        if verb == "break-even":
            sweeps.show_break_even(screen, found)
        repeat_hint(screen, found)
        if plot and found:
            sweeps.plot(plot, found)
        finish(found, plan.device, out)

    def ends(
        from_: Annotated[
            int, typer.Option("--from", min=1, help="The first length; each next one is twice that.")
        ] = first,
        to: Annotated[int, typer.Option(min=1, help="No length beyond this one.")] = last,
    ):
        """The options that take the place of --seq-len."""

    options = [option for option in parameters(sized) if option.name != "seq_len"] + parameters(ends)
    options += parameters(chosen, measured, timed) + family.parameters
    command(group, family.name, family.help, options, sweep)


def add_memory(group: typer.Typer, family: Family) -> None:
    def memory(out, **values):
        screen = console()
        plan = make_plan(values, MEMORY_PEERS)
        found = limits.memory_rows(make_problem(family, values, plan.device.type), plan, screen)
        report.show(screen, found, limits.MEMORY_COLUMNS)
        finish(found, plan.device, out)

    command(group, family.name, family.help, parameters(sized, chosen, measured) + family.parameters, memory)


def add_max_batch(group: typer.Typer, family: Family) -> None:
    def max_batch(out, memory_limit, **values):
        screen = console()
        plan = make_plan(values, MEMORY_PEERS)
        if memory_limit is None:
            cuda = plan.device.type == "cuda"
            memory_limit = torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else 2
        problem = make_problem(family, values | {"batch": 1}, plan.device.type)
        found = limits.batch_rows(problem, plan, memory_limit * 1024, screen)
        report.show(screen, found, limits.BATCH_COLUMNS)
        finish(found, plan.device, out)

    def limit(
        memory_limit: Annotated[
            float | None,
            typer.Option(min=0.01, help="GiB of the process; all of the GPU, or 2 on the CPU, by default."),
        ] = None,
    ):
        """The option that sizes the batch."""

    options = [option for option in parameters(sized) if option.name != "batch"] + parameters(limit)
    command(group, family.name, family.help, options + parameters(chosen, measured) + family.parameters, max_batch)


GROUPS = {
    "sweep": "Lengths that double, for a family: `bench sweep streaming --window 64`.",
    "break-even": "From 16 positions up: where sparse first beats dense.",
    "memory": "Peak memory of a forward, and of a forward and a backward, against dense attention.",
    "max-batch": "The largest batch that fits, or that a memory limit allows.",
}
groups = {}
for name, text in GROUPS.items():
    groups[name] = typer.Typer(cls=OverFamilies, help=f"{text} Without a family: {DEFAULT_FAMILY}.")
    app.add_typer(groups[name], name=name)
for family in FAMILIES.values():
    add_family(family)
    add_sweep(groups["sweep"], "sweep", family, 512, 8192)
    add_sweep(groups["break-even"], "break-even", family, 16, 4096)
    add_memory(groups["memory"], family)
    add_max_batch(groups["max-batch"], family)


def named(names, out, plot, **values):
    screen = console()
    plan = make_plan(values)
    chosen_problems = problems.find(names)
    if plan.device.type == "cuda":
        product, copy = measure.ceilings()
        screen.print(f"8192^3 bf16 product {product:.0f} TFLOP/s, 2 GiB copy {copy:.2f} TB/s", highlight=False)
        ceilings = {"matmul_tflops": f"{product:.0f}", "copy_tb_s": f"{copy:.2f}"}
    else:
        ceilings = {}
    found = []
    for problem in chosen_problems:
        changes = {} if values["dtype"] == "auto" else {"dtype": values["dtype"]}
        problem = problems.with_seed(problem, values["seed"], **changes)
        found += run.measure_problem(problem, plan, screen)
        if out:  # after each problem, so that a stopped run keeps what it has
            report.write(out, [row | measure.origin(plan.device) | ceilings for row in found])
        gc.collect()
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
    run.show(screen, found)
    if plot and found:
        report.plot_bars(plot, found, "ms", "ms")
    finish(found, plan.device, out, **ceilings)


def which(names: Annotated[list[str], typer.Argument(help="Names of `bench list`, or shell patterns of them.")]):
    """What `bench run` takes."""


def seeded():
    return [option for option in parameters(chosen) if option.name == "seed"]


command(app, "run", "Problems by their names.", parameters(which, measured, timed) + seeded(), named)


def long_table(out, plot, **values):
    screen = console()
    plan = make_plan(values, LONG_PEERS)
    kv_heads = values["kv_heads"] or values["heads"]
    sizes = Sizes(
        values["batch"],
        values["heads"],
        kv_heads,
        values["seq_len"],
        values["head_dim"],
        dtype_for(values, plan.device.type),
    )
    peers = [word for peer in plan.peers for word in ("--peer", peer.name)]
    words = ["128k", *sizes.words(), *peers, "--direction", values["direction"], *plan.words()]
    found = tables.long_rows(sizes, plan, words, screen)
    report.show(screen, found, tables.LONG_COLUMNS, f"N {sizes.seq_len}: speed-up over the fastest dense attention")
    if plot and found:
        report.plot_bars(plot, found, "ms", "ms")
    finish(found, plan.device, out)


def long_sizes():
    changed = {"seq_len": 131072, "heads": 1}
    return [option.replace(default=changed.get(option.name, option.default)) for option in parameters(sized)]


def long_rounds():
    return [option.replace(default=1) if option.name == "rounds" else option for option in parameters(timed)]


command(
    app,
    "128k",
    "131072 positions: dense, window, BigBird and dilated, with sparsity and speed-up.",
    long_sizes() + parameters(measured) + long_rounds(),
    long_table,
)


def ratios(only, rounds, out):
    screen = console()
    plan = run.Plan(torch.device("cpu"), ["fwd", "bwd"], [], rounds)
    found = tables.cpu_ratios(only, plan, screen)
    if not found:
        raise ValueError(f"only: no comparison has {only!r} in its name")
    report.show(screen, found, tables.RATIO_COLUMNS, "CPU: ratios to a peer, and what is wanted")
    finish(found, plan.device, out)


def ratio_options(
    only: Annotated[str, typer.Option(help="Part of a comparison's name.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved repetitions; the median counts.")] = 7,
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
):
    """The options of cpu-ratios."""


command(
    app,
    "cpu-ratios",
    "The ratios to causal SDPA and the memory that the CPU kernels owe (benchmarks/results/cpu.csv).",
    parameters(ratio_options),
    ratios,
)


def row_functions(rows_, columns, alpha, dtype, device, seed, direction, peer, rounds, repeat_ms, out, plot):
    screen = console()
    where = measure.pick_device(device)
    directions = ["fwd", "bwd"] if direction == "both" else [direction]
    names = dtype_for({"dtype": dtype}, "cpu") if dtype == "auto" else dtype
    found = rows.rows(
        rows_,
        columns,
        1.5 if alpha is None else alpha,
        names,
        seed,
        directions,
        peer or [],
        where,
        rounds,
        repeat_ms,
        screen,
    )
    report.show(screen, found, rows.COLUMNS)
    repeat_hint(screen, found)
    if plot and found:
        report.plot_bars(plot, found, "ms", "ms")
    finish(found, where, out)


def row_options(
    rows_: Annotated[int, typer.Option("--rows", min=1, help="Rows.")] = 8192,
    columns: Annotated[int, typer.Option(min=1, help="Columns.")] = 1024,
    alpha: AlphaOption = None,
):
    """The sizes of the row functions."""


command(
    app,
    "rows",
    "Row functions: entmax of plain tensors, against softmax and other packages.",
    parameters(row_options, measured) + [o for o in parameters(timed) if o.name != "check"] + seeded(),
    row_functions,
)


@app.command("list")
def list_() -> None:
    """Name the families, the problems of `run`, and the peers."""
    screen = console()
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
    for problem in problems.PROBLEMS.values():
        table.add_row(problem.name, str(problem.sizes), problem.family.name)
    screen.print(table)
