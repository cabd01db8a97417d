"""What a backward that repeats bit for bit costs, and the memory that a backward takes beside its tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console

from . import measure, report
from .case import Case
from .catalogue import Problem
from .memory import MIB
from .peers.splash import Splash
from .run import Plan, backward_only

COLUMNS = {
    "problem": "problem",
    "ms": "ms",
    "deterministic_ms": "ms, deterministic",
    "ratio": "ratio",
    "wanted": "wanted at most",
    "met": "met",
    "beside_mib": "beside tensors, MiB",
    "deterministic_beside_mib": "deterministic, MiB",
    "tensors_mib": "q, k, v, out, and gradients, MiB",
    "note": "note",
}
WANTED = {True: 1.4, False: 1.2}
"""By whether the problem is causal or one of block lists."""
LISTS = ("block-mask", "bigbird")


def wanted(case: Case) -> float:
    return WANTED[case.causal or case.problem.family.name in LISTS]


def rows(problems: list[Problem], plan: Plan, words: list[object], console: Console) -> list[dict]:
    """A row for each problem. words: the options that repeat a row, without its name."""
    found = []
    for problem in problems:
        row = {"problem": problem.name, "pass": "bwd", "peer": "splash"}
        with console.status(problem.name):
            try:
                row |= _row(Case(problem, plan.device), plan)
            except Exception as error:
                row["note"] = f"{type(error).__name__}: {str(error)[:300]}"
        found.append(row | {"command": report.command(["deterministic", problem.name, *words])})
    return found


def _row(case: Case, plan: Plan) -> dict[str, str]:
    calls = {
        name: backward_only(Splash(deterministic=name == "deterministic").prepare(case), case)
        for name in ("default", "deterministic")
    }
    beside = {name: _beside(call, case.device) for name, call in calls.items()}
    seconds = measure.times(calls, plan.device, plan.rounds, plan.repeat_ms, warm=True)
    ratio = f"{seconds['deterministic'] / seconds['default']:.3f}"
    limit = wanted(case)
    # Of each of q, k and v there is a gradient; out is as large as its own and as q.
    tensors = sum(t.nbytes for t in (*case.qkv, case.grad)) * 2
    return {
        "ms": report.number(seconds["default"] * 1e3),
        "deterministic_ms": report.number(seconds["deterministic"] * 1e3),
        "ratio": ratio,
        "wanted": f"{limit}",
        "met": "yes" if float(ratio) <= limit else "no",
        "beside_mib": beside["default"],
        "deterministic_beside_mib": beside["deterministic"],
        "tensors_mib": report.number(tensors / MIB),
    }


def _beside(call: Callable, device: torch.device) -> str:
    """MiB at the peak of the call beyond what it returns and what was there; "" on the CPU, where nobody counts."""
    if device.type == "cpu":
        call()
        return ""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradients = call()
    peak = torch.cuda.max_memory_allocated()
    own = sum(gradient.nbytes for gradient in gradients if gradient is not None)
    return report.number(max(peak - before - own, 0) / MIB)
