"""Times splash and its peers on a GPU over the named problems, after checking each answer.

python benchmarks/driver.py --out results.csv --only 'window*' --contender splash --contender flex
"""

import fnmatch
import gc
from pathlib import Path
from typing import Annotated

import contenders
import measure
import problems
import torch
import typer
from rich.console import Console
from rich.table import Table

from splash_attention import NoKernelError

# Largest relative error of an output or a gradient in bf16 against float64: matrix products of bf16 reach 1e-2 at most.
TOLERANCE = 1e-2
console = Console(width=160)


def check(outcome, exact):
    """The largest relative error of a contender on the exact head; ValueError above the tolerance."""
    errors = {name: problems.relative_error(got[:1, :1], getattr(exact, name)) for name, got in outcome.items()}
    if not all(error <= TOLERANCE for error in errors.values()):  # a NaN fails too
        raise ValueError(f"wrong result, relative errors {errors}")
    return max(errors.values())


def measure_contender(contender, problem, inputs, exact, directions, repeat_ms):
    """{direction: (milliseconds, error)}; a direction without a kernel is left out."""
    call = contender.prepare(problem, inputs)
    # Peers without entmax run dense softmax beside it: other mathematics, so nothing to check against.
    comparable = problem.alpha == 1 or contender.name == "splash"
    found = {}
    if "fwd" in directions:
        with torch.no_grad():
            error = check({"out": call(*inputs.qkv)}, exact) if comparable else None
            found["fwd"] = measure.milliseconds(lambda: call(*inputs.qkv), repeat_ms), error
    if "bwd" in directions:
        out = call(*inputs.qkv)

        def backward():
            return torch.autograd.grad(out, inputs.qkv, inputs.grad, retain_graph=True)

        try:
            gradients = dict(zip(("dq", "dk", "dv"), backward(), strict=True))
        except NoKernelError as error:
            console.print(f"  {contender.name} bwd: {error}")
            return found
        error = check(gradients, exact) if comparable else None
        found["bwd"] = measure.milliseconds(backward, repeat_ms), error
    return found


def run_problem(problem, chosen, directions, repeat_ms):
    """The rows of one problem."""
    inputs = problems.build(problem, "cuda")
    pairs = problems.kept_pairs(problem, inputs)
    exact = problems.exact(problem, inputs)
    share = pairs / (problem.batch * problem.heads * problem.length**2)
    console.print(
        f"{problem.name}: {share:.4f} of the scores kept; {exact.nonzeros:.1f} non-zeros a row, "
        f"{exact.active_tiles:.3f} of the kept 64x64 tiles active"
    )
    for contender in chosen:
        if not contender.runs(problem):
            continue
        try:
            found = measure_contender(contender, problem, inputs, exact, directions, repeat_ms)
        except (RuntimeError, ValueError, NoKernelError) as error:  # the other contenders still run
            console.print(f"  [red]{contender.name}: {type(error).__name__}: {str(error)[:300]}[/red]")
            continue
        for direction, (milliseconds, error) in found.items():
            yield {
                "problem": problem.name,
                "pass": direction,
                "contender": contender.name,
                "ms": f"{milliseconds:.4f}",
                "tflops": f"{problems.flops(problem, pairs, direction) / milliseconds / 1e9:.1f}",
                "relative_error": "" if error is None else f"{error:.2e}",
                "kept_share": f"{share:.5f}",
                "nonzeros_a_row": f"{exact.nonzeros:.1f}",
                "active_tiles": f"{exact.active_tiles:.4f}",
                "command": measure.command(
                    f"--only '{problem.name}'", f"--contender {contender.name}", f"--direction {direction}"
                ),
            }


def show(rows):
    table = Table("problem", "pass", "contender", "ms", "TFLOP/s", "error")
    for row in rows:
        table.add_row(*(row[key] for key in ("problem", "pass", "contender", "ms", "tflops", "relative_error")))
    console.print(table)


def main(
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Problems to run, as shell patterns.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help="Contenders to run; all by default.")] = None,
    direction: Annotated[list[str] | None, typer.Option(help="fwd, bwd; both by default.")] = None,
    repeat_ms: Annotated[int, typer.Option(help="How long each contender is timed.")] = 100,
    list_: Annotated[bool, typer.Option("--list", help="Name problems and contenders.")] = False,
):
    """Checks, then times; TFLOP/s count kept scores only (4 D operations a pair forward, 10 D backward)."""
    wanted = [p for p in problems.PROBLEMS if not only or any(fnmatch.fnmatchcase(p.name, o) for o in only)]
    chosen = [c for c in contenders.CONTENDERS if not contender or c.name in contender]
    if list_:
        console.print("\n".join([p.name for p in wanted] + [f"contender {c.name}" for c in chosen]))
        return
    if not torch.cuda.is_available():
        raise typer.BadParameter("these problems need a CUDA device; benchmarks/cpu.py measures on the CPU")
    product, copy = measure.ceilings()
    console.print(f"{measure.machine('cuda')}: 8192^3 bf16 product {product:.0f} TFLOP/s, 2 GiB copy {copy:.2f} TB/s")
    origin = measure.origin("cuda") | {"matmul_tflops": f"{product:.0f}", "copy_tb_s": f"{copy:.2f}"}
    rows = []
    for problem in wanted:
        rows += [row | origin for row in run_problem(problem, chosen, direction or ["fwd", "bwd"], repeat_ms)]
        if out:  # after each problem, so that a stopped run keeps what it has
            measure.write(out, rows)
        gc.collect()
        torch.cuda.empty_cache()
    show(rows)


if __name__ == "__main__":
    typer.run(main)
