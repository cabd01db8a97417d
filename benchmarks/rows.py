"""Named problems of the row functions in one table: checked, then timed against torch.softmax and PyPI's entmax.

python benchmarks/rows.py --out results.csv --only '8192x8192*' --contender splash
python benchmarks/rows.py --device cpu
"""

import fnmatch
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import splash_attention as sa
from splash_attention.bench import measure, report
from splash_attention.reference.normalizers import entmax as reference

COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "contender": "contender",
    "ms": "ms",
    "gb_s": "GB/s",
    "error_eps": "error / eps",
    "nonzeros_a_row": "non-zeros a row",
}
CHECKED_ROWS = 16
console = Console(width=160)


@dataclass(frozen=True)
class Problem:
    """Normal scores of a shape, normalized along `dim`."""

    name: str
    shape: tuple[int, ...]
    dim: int = -1
    alpha: float = 1.5
    dtype: torch.dtype = torch.float32
    devices: tuple[str, ...] = ("cuda",)


PROBLEMS = [
    Problem("8192x1024", (8192, 1024)),
    Problem("8192x8192", (8192, 8192)),
    Problem("4096x32768", (4096, 32768)),
    Problem("8192x8192 alpha 2", (8192, 8192), alpha=2.0),
    Problem("8192x8192 alpha 1.25", (8192, 8192), alpha=1.25),
    Problem("65536x64", (65536, 64)),
    Problem("65536x256", (65536, 256)),
    Problem("8192x4096", (8192, 4096)),
    Problem("8192x8192 bf16", (8192, 8192), dtype=torch.bfloat16),
    Problem("4096x32768 bf16", (4096, 32768), dtype=torch.bfloat16),
    Problem("2048x50257", (2048, 50257)),
    Problem("2048x128256", (2048, 128256)),
    Problem("64x512x1024 dim 1", (64, 512, 1024), dim=1),
    Problem("8192x8192 dim 0", (8192, 8192), dim=0),
    Problem("4096x4096", (4096, 4096), devices=("cpu", "cuda")),
    Problem("4096x4096 dim 0", (4096, 4096), dim=0, devices=("cpu", "cuda")),
]


@dataclass(frozen=True)
class Contender:
    name: str
    alphas: tuple[float, ...] | None  # None: dense softmax, other mathematics beside it
    call: Callable


def published(x, alpha, dim):
    import entmax

    return {1.5: entmax.entmax15, 2.0: entmax.sparsemax}[alpha](x, dim=dim)


CONTENDERS = [
    Contender("splash", (1.25, 1.5, 2.0), lambda x, alpha, dim: sa.entmax(x, alpha, dim)),
    Contender("torch.softmax", None, lambda x, alpha, dim: torch.softmax(x, dim)),
    Contender("entmax (PyPI)", (1.5, 2.0), published),
]


def check(problem, x, grad, weights, gradient):
    """The largest error of weights and gradient in some rows, in epsilons of the dtype; ValueError above 100."""
    rows = [t.movedim(problem.dim, -1).reshape(-1, t.shape[problem.dim])[:CHECKED_ROWS] for t in (x, grad)]
    wide = rows[0].detach().double().requires_grad_()
    want, _ = reference(wide, torch.ones_like(wide, dtype=torch.bool), problem.alpha)
    (want_gradient,) = torch.autograd.grad(want, wide, rows[1].double())
    errors = []
    for got, exact in ((weights, want.detach()), (gradient, want_gradient)):
        got = got.movedim(problem.dim, -1).reshape(-1, x.shape[problem.dim])[:CHECKED_ROWS]
        errors.append(float((got.double() - exact).abs().max()) / torch.finfo(problem.dtype).eps)
    if not max(errors) <= 100:
        raise ValueError(f"wrong result: errors of {errors} epsilons")
    return max(errors)


def run_contender(contender, problem, device, repeat_ms, rounds):
    """{direction: seconds}, the error and the non-zeros of a row."""
    generator = torch.Generator(device).manual_seed(0)
    x, grad = (
        torch.randn(problem.shape, device=device, generator=generator).to(problem.dtype).requires_grad_(n == 0)
        for n in range(2)
    )
    weights = contender.call(x, problem.alpha, problem.dim)

    def forward():
        with torch.no_grad():
            return contender.call(x, problem.alpha, problem.dim)

    def backward():
        return torch.autograd.grad(weights, x, grad, retain_graph=True)[0]

    error = check(problem, x, grad, weights.detach(), backward()) if contender.alphas else None
    nonzeros = float((weights > 0).sum() / (weights.numel() / weights.shape[problem.dim]))
    times = measure.times({"fwd": forward, "bwd": backward}, torch.device(device), rounds, repeat_ms)
    return times, error, nonzeros


def command(problem, contender, device):
    """The shell command that repeats a row."""
    chosen = shlex.join(["--only", problem.name, "--contender", contender.name, "--device", device])
    return f"python benchmarks/rows.py {chosen}"


def run_problem(problem, chosen, device, repeat_ms, rounds):
    for contender in chosen:
        if contender.alphas and problem.alpha not in contender.alphas:
            continue
        try:
            times, error, nonzeros = run_contender(contender, problem, device, repeat_ms, rounds)
        except (RuntimeError, ValueError, NotImplementedError, ImportError) as failure:  # the others still run
            reason = f"{type(failure).__name__}: {str(failure)[:200]}"
            console.print(f"  {problem.name} {contender.name}: {reason}", markup=False)
            continue
        for direction, seconds in times.items():
            # Each tensor once: x and p; or p, the gradient and dx.
            moved = {"fwd": 2, "bwd": 3}[direction] * torch.Size(problem.shape).numel() * problem.dtype.itemsize
            yield {
                "problem": problem.name,
                "dtype": str(problem.dtype).removeprefix("torch."),
                "alpha": problem.alpha,
                "pass": direction,
                "contender": contender.name,
                "ms": f"{1e3 * seconds:.4f}",
                "gb_s": report.number(moved / seconds / 1e9),
                "error_eps": "" if error is None else f"{error:.1f}",
                "nonzeros_a_row": f"{nonzeros:.1f}",
                "command": command(problem, contender, device),
            }


def main(
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Problems to run, as shell patterns.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help="Contenders to run; all by default.")] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    repeat_ms: Annotated[int, typer.Option(help="How long each is timed on CUDA.")] = 100,
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions on the CPU.")] = 7,
):
    """Checks, then times; GB/s count every tensor once. On CUDA the L2 cache is flushed before each call."""
    wanted = [p for p in PROBLEMS if device in p.devices]
    wanted = [p for p in wanted if not only or any(fnmatch.fnmatchcase(p.name, o) for o in only)]
    chosen = [c for c in CONTENDERS if not contender or c.name in contender]
    origin = measure.origin(torch.device(device))
    if device == "cuda":
        _, copy = measure.ceilings()
        origin |= {"copy_tb_s": f"{copy:.2f}"}
        console.print(f"{origin['machine']}: 2 GiB copy {copy:.2f} TB/s")
    rows = []
    for problem in wanted:
        rows += [row | origin for row in run_problem(problem, chosen, device, repeat_ms, rounds)]
        if out:  # after each problem, so that a stopped run keeps what it has
            report.write(out, rows)
        if device == "cuda":
            torch.cuda.empty_cache()
    report.show(console, rows, COLUMNS)


if __name__ == "__main__":
    typer.run(main)
