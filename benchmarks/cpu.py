"""Times splash against torch SDPA on the CPU, float32, interleaved in one run, and writes the ratios.

python benchmarks/cpu.py --out benchmarks/results/cpu.csv
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import measure
import problems
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table

import splash_attention as sa

HEADS, DIM = 8, 64


@dataclass(frozen=True)
class Comparison:
    """splash on `problem` against causal SDPA on the same tensors; `wanted` is the smallest accepted ratio of times."""

    problem: problems.Problem
    wanted: float | None


def cpu_problem(name, length, pattern, alpha=1):
    return problems.Problem(name, 1, HEADS, length, DIM, pattern, alpha=alpha, dtype=torch.float32)


COMPARISONS = [
    Comparison(cpu_problem("causal N4096", 4096, sa.Causal()), 0.5),
    Comparison(cpu_problem("window256-causal N8192", 8192, sa.SlidingWindow.causal(256)), 6.0),
    Comparison(cpu_problem("entmax1.5 causal N4096", 4096, sa.Causal(), alpha=1.5), None),
]


def calls(call, inputs):
    """{direction: function} of a forward function."""

    def forward():
        with torch.no_grad():
            return call(*inputs.qkv)

    out = call(*inputs.qkv)
    return {"fwd": forward, "bwd": lambda: torch.autograd.grad(out, inputs.qkv, inputs.grad, retain_graph=True)}


def compare(comparison, rounds):
    """The rows of one comparison, after a check against the reference on one head."""
    problem = comparison.problem
    inputs = problems.build(problem, "cpu")
    exact = problems.exact(problem, inputs)
    splash = calls(lambda q, k, v: sa.attention(q, k, v, problem.pattern, problem.normalizer), inputs)
    sdpa = calls(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), inputs)
    gradients = zip(("dq", "dk", "dv"), splash["bwd"](), strict=True)
    for name, got in [("out", splash["fwd"]()), *gradients]:
        error = problems.relative_error(got[:1, :1], getattr(exact, name))
        if not error < 1e-4:
            raise ValueError(f"{problem.name}: relative error of {name} is {error:.2e}")
    pairs = problems.kept_pairs(problem, inputs)
    for direction in ("fwd", "bwd"):
        seconds = measure.interleaved({"splash": splash[direction], "sdpa": sdpa[direction]}, rounds)
        yield {
            "problem": f"{problem.name} B1 H{HEADS} D{DIM} float32",
            "pass": direction,
            "splash_ms": f"{seconds['splash'] * 1e3:.1f}",
            "sdpa_causal_ms": f"{seconds['sdpa'] * 1e3:.1f}",
            "ratio": f"{seconds['sdpa'] / seconds['splash']:.2f}",
            "wanted": comparison.wanted or "",
            "splash_gflops": f"{problems.flops(problem, pairs, direction) / seconds['splash'] / 1e9:.0f}",
        }


def main(
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
    only: Annotated[str, typer.Option(help="Part of a problem's name.")] = "",
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions; the median counts.")] = 7,
):
    """Ratios above 1: splash is faster than torch's causal SDPA."""
    arguments = [f"--rounds {rounds}"]
    rows = []
    for comparison in COMPARISONS:
        if only in comparison.problem.name:
            command = measure.command(f"--only '{comparison.problem.name}'", *arguments)
            rows += [row | measure.origin("cpu") | {"command": command} for row in compare(comparison, rounds)]
    table = Table("problem", "pass", "splash ms", "sdpa ms", "ratio", "wanted")
    for row in rows:
        table.add_row(*(str(row[c]) for c in ("problem", "pass", "splash_ms", "sdpa_causal_ms", "ratio", "wanted")))
    Console(width=120).print(table)
    if out:
        measure.write(out, rows)


if __name__ == "__main__":
    typer.run(main)
