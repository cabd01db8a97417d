"""Row functions: entmax of plain tensors, against torch's softmax and other packages."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from splash_attention import NoKernelError, entmax, reference

from . import measure, report
from .check import THRESHOLD_TOLERANCES, TOLERANCES, WrongResult
from .run import Plan
from .sizes import DTYPES

COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "peer": "peer",
    "ms": "ms",
    "gb_s": "GB/s",
    "splash_speedup": "splash is x times as fast",
    "relative_error": "error",
    "nonzeros_a_row": "non-zeros a row",
}
PEERS = ("splash", "torch-softmax", "entmax", "adasplash")
CHECKED_ROWS, CHECKED_SCORES = 256, 2**22
MOVES = {"fwd": 2, "bwd": 3}  # tensors read and written: x and p; dp, p and dx


@dataclass(frozen=True)
class Problem:
    """Normal scores of a shape, normalized along `dim`. named: whether --only knows its name."""

    name: str
    shape: tuple[int, ...]
    dim: int = -1
    alpha: float = 1.5
    dtype: str = "float32"
    devices: tuple[str, ...] = ("cpu", "cuda")
    seed: int = 0
    named: bool = True

    @property
    def moved(self) -> dict[str, int]:
        """Bytes by pass, each tensor once."""
        size = torch.Size(self.shape).numel() * DTYPES[self.dtype].itemsize
        return {direction: tensors * size for direction, tensors in MOVES.items()}

    def words(self) -> list[object]:
        """The options that ask for it."""
        if self.named:
            return ["--only", self.name, "--seed", self.seed]
        rows, columns = self.shape
        sizes = ["--rows", rows, "--columns", columns]
        return [*sizes, "--alpha", f"{self.alpha:g}", "--dtype", self.dtype, "--seed", self.seed]

    def in_rows(self, x: Tensor) -> Tensor:
        """Some of what is normalized, as the rows of a matrix."""
        columns = self.shape[self.dim]
        count = max(16, min(CHECKED_ROWS, CHECKED_SCORES // columns))
        return x.movedim(self.dim, -1).reshape(-1, columns)[:count]


GPU = ("cuda",)
PROBLEMS = (
    Problem("8192x1024", (8192, 1024), devices=GPU),
    Problem("8192x8192", (8192, 8192), devices=GPU),
    Problem("4096x32768", (4096, 32768), devices=GPU),
    Problem("8192x8192 alpha 2", (8192, 8192), alpha=2.0, devices=GPU),
    Problem("8192x8192 alpha 1.25", (8192, 8192), alpha=1.25, devices=GPU),
    Problem("65536x64", (65536, 64), devices=GPU),
    Problem("65536x256", (65536, 256), devices=GPU),
    Problem("8192x4096", (8192, 4096), devices=GPU),
    Problem("8192x8192 bf16", (8192, 8192), dtype="bfloat16", devices=GPU),
    Problem("4096x32768 bf16", (4096, 32768), dtype="bfloat16", devices=GPU),
    Problem("2048x50257", (2048, 50257), devices=GPU),
    Problem("2048x128256", (2048, 128256), devices=GPU),
    Problem("64x512x1024 dim 1", (64, 512, 1024), dim=1, devices=GPU),
    Problem("8192x8192 dim 0", (8192, 8192), dim=0, devices=GPU),
    Problem("4096x4096", (4096, 4096)),
    Problem("4096x4096 dim 0", (4096, 4096), dim=0),
)


def sized(count: int, columns: int, alpha: float, dtype: str, seed: int) -> Problem:
    """One of any size, along its last dimension."""
    name = f"rows {count}x{columns} alpha {alpha:g} {dtype}"
    return Problem(name, (count, columns), alpha=alpha, dtype=dtype, seed=seed, named=False)


def find(names: list[str], device: str) -> list[Problem]:
    """Those of PROBLEMS for the device with these names or shell patterns. ValueError for one that names none."""
    here = [problem for problem in PROBLEMS if device in problem.devices]
    found = {}
    for name in names:
        matches = [problem for problem in here if fnmatch.fnmatchcase(problem.name, name)]
        if not matches:
            known = ", ".join(problem.name for problem in here)
            raise ValueError(f"only: expected a name or shell pattern of {known} on {device}, got {name!r}")
        found |= {problem.name: problem for problem in matches}
    return list(found.values())


def choose(names: list[str]) -> list[str]:
    """The named peers, all of them where there is no name. ValueError for an unknown one."""
    for name in names:
        if name not in (*PEERS, "all"):
            raise ValueError(f"peer: expected one of all, {', '.join(PEERS)}, got {name!r}")
    return [peer for peer in PEERS if not names or "all" in names or peer in names]


def function(peer: str, problem: Problem, device: torch.device) -> Callable[[Tensor], Tensor] | str:
    """What the peer computes, or why it does not."""
    alpha, dim = problem.alpha, problem.dim
    if peer == "splash":
        return lambda x: entmax(x, alpha, dim)
    if peer == "torch-softmax":
        return lambda x: x.softmax(dim)
    if peer == "entmax":
        try:
            import entmax as package
        except ImportError:
            return "not installed"
        known = {1: torch.softmax, 1.5: package.entmax15, 2: package.sparsemax}
        if alpha in known:
            return lambda x: known[alpha](x, dim=dim)
        return lambda x: package.entmax_bisect(x, alpha, dim=dim)
    if device.type == "cpu":
        return "Triton kernels need CUDA"
    try:
        from adasplash import triton_entmax
    except ImportError:
        return "not installed"
    return (lambda x: triton_entmax(x, alpha)) if dim in (-1, len(problem.shape) - 1) else "takes the last dimension"


def rows(
    problems: list[Problem], plan: Plan, peers: list[str], console: Console, save: Callable[[list[dict]], None]
) -> list[dict]:
    """One row a problem, pass and peer. save: called with all rows after each problem. WrongResult of splash's own."""
    found = []
    for problem in problems:
        found += _rows(problem, plan, peers, console)
        save(found)
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def _rows(problem: Problem, plan: Plan, peers: list[str], console: Console) -> list[dict]:
    generator = torch.Generator(plan.device).manual_seed(problem.seed)
    x, grad = (
        torch.randn(problem.shape, generator=generator, device=plan.device).to(DTYPES[problem.dtype]) for _ in range(2)
    )
    x.requires_grad_()
    calls, errors, nonzeros = {}, {}, {}
    for peer in peers:
        computes = function(peer, problem, plan.device)
        note = f"not run: {computes}" if isinstance(computes, str) else ""
        if not note:
            try:
                weights = computes(x)
                errors[peer] = _check(peer, problem, weights, x, grad)
                nonzeros[peer] = float((weights > 0).sum() / (weights.numel() / weights.shape[problem.dim]))
                calls[peer] = {"fwd": _forward(computes, x), "bwd": _backward(weights, x, grad)}
            except NoKernelError as error:
                note = f"no kernel: {error}"
            except Exception as error:  # a package may fail in any way, the others still run
                if peer == "splash":
                    raise
                note = str(error) if isinstance(error, WrongResult) else f"{type(error).__name__}: {str(error)[:300]}"
        if note:
            console.print(f"  {problem.name}: {peer}: {note}", highlight=False, markup=False)
    found = []
    for direction in plan.directions:
        functions = {peer: own[direction] for peer, own in calls.items()}
        seconds = measure.times(functions, plan.device, plan.rounds, plan.repeat_ms)
        for peer, second in seconds.items():
            chosen = ["--peer", "splash", *(["--peer", peer] if peer != "splash" else [])]
            words = ["rows", *problem.words(), *chosen, "--direction", direction, *plan.words()]
            found.append(
                {
                    "problem": problem.name,
                    "dtype": problem.dtype,
                    "alpha": problem.alpha,
                    "pass": direction,
                    "peer": peer,
                    "ms": report.number(second * 1e3),
                    "gb_s": report.number(problem.moved[direction] / second / 1e9),
                    "splash_speedup": f"{second / seconds['splash']:.3g}" if "splash" in seconds else "",
                    "relative_error": f"{errors[peer][direction]:.1e}" if errors[peer] else "",
                    "nonzeros_a_row": f"{nonzeros[peer]:.1f}",
                    "command": report.command(words),
                }
            )
    return found


def _forward(computes: Callable, x: Tensor) -> Callable:
    def forward():
        with torch.no_grad():
            return computes(x)

    return forward


def _backward(weights: Tensor, x: Tensor, grad: Tensor) -> Callable:
    return lambda: torch.autograd.grad(weights, x, grad, retain_graph=True)


def _check(peer: str, problem: Problem, weights: Tensor, x: Tensor, grad: Tensor) -> dict[str, float]:
    """{pass: relative error} on some rows, none of what computes another function; WrongResult beyond the tolerance.

    Packages that find the threshold in half precision are allowed what a score on its wrong side costs.
    """
    if peer == "torch-softmax" and problem.alpha != 1:
        return {}
    (gradient,) = torch.autograd.grad(weights, x, grad, retain_graph=True)
    got, got_gradient, scores, upstream = (problem.in_rows(t.detach()) for t in (weights, gradient, x, grad))
    exact = scores.double().requires_grad_()
    kept = torch.ones_like(exact, dtype=torch.bool)
    want, _ = reference.softmax(exact, kept) if problem.alpha == 1 else reference.entmax(exact, kept, problem.alpha)
    (want_gradient,) = torch.autograd.grad(want, exact, upstream.double())
    errors = {
        direction: ((a.double() - b).norm() / b.norm()).item()
        for direction, a, b in (("fwd", got, want.detach()), ("bwd", got_gradient, want_gradient))
    }
    allowed = (TOLERANCES if peer == "splash" else THRESHOLD_TOLERANCES)[x.dtype]
    if not all(error <= allowed for error in errors.values()):
        raise WrongResult(f"{peer}: wrong: relative errors {errors}, allowed {allowed:g}")
    return errors
