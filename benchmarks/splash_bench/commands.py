"""`python -m splash_attention bench ...`: the commands of families; those with fixed problems are in fixed.py."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from typer.core import TyperGroup

from . import fixed, limits, report, run, sweeps
from .families import FAMILIES, Family
from .options import chosen, command, make_plan, make_problem, measured, parameters, sized, timed

app = typer.Typer(
    no_args_is_help=True,
    help="Times of splash and its peers over named problems or explicit sizes; every answer is checked first.",
)
DEFAULT_FAMILY = "window"
MEMORY_PEERS = ["splash", "sdpa", "torch-dense"]


class OverFamilies(TyperGroup):
    """A group with a command for each family; without a family's name it is that of DEFAULT_FAMILY."""

    def parse_args(self, ctx, args):
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [DEFAULT_FAMILY, *args]
        return super().parse_args(ctx, args)


def add_family(family: Family) -> None:
    def one(out, plot, **values):
        screen, plan = report.console(), make_plan(values)
        problem = make_problem(family, values, plan.device.type)
        found = run.measure_problem(problem, plan, screen)
        run.show(screen, found)
        report.repeat_hint(screen, found)
        if plot and found:
            report.plot_bars(plot, found, "ms", "ms")
        report.finish(found, plan.device, out)

    options = parameters(sized, chosen, measured, timed) + family.parameters
    command(app, family.name, family.help, options, one)


def add_sweep(group: typer.Typer, verb: str, family: Family, first: int, last: int) -> None:
    def sweep(out, plot, **values):
        screen = report.console()
        plan = make_plan(values)
        if values["to"] < values["from_"]:
            raise ValueError(f"to: expected at least --from {values['from_']}, got {values['to']}")
        problem = make_problem(family, values, plan.device.type)
        found = sweeps.rows(verb, problem, sweeps.doubling(values["from_"], values["to"]), plan, screen)
        sweeps.show(screen, found, problem.label)
        if verb == "break-even":
            sweeps.show_break_even(screen, found)
        report.repeat_hint(screen, found)
        if plot and found:
            sweeps.plot(plot, found)
        report.finish(found, plan.device, out)

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
        screen = report.console()
        plan = make_plan(values, MEMORY_PEERS)
        found = limits.memory_rows(make_problem(family, values, plan.device.type), plan, screen)
        report.show(screen, found, limits.MEMORY_COLUMNS)
        report.finish(found, plan.device, out)

    command(group, family.name, family.help, parameters(sized, chosen, measured) + family.parameters, memory)


def add_max_batch(group: typer.Typer, family: Family) -> None:
    def max_batch(out, memory_limit, **values):
        screen = report.console()
        plan = make_plan(values, MEMORY_PEERS)
        if memory_limit is None:
            cuda = plan.device.type == "cuda"
            memory_limit = torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else 2
        problem = make_problem(family, values | {"batch": 1}, plan.device.type)
        found = limits.batch_rows(problem, plan, memory_limit * 1024, screen)
        report.show(screen, found, limits.BATCH_COLUMNS)
        report.finish(found, plan.device, out)

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
fixed.register(app)
