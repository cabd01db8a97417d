"""The rows of one problem: every peer checked first, then timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from rich.console import Console

from splash_attention import NoKernelError

from . import check, measure, report, tiles
from .case import Case
from .peers import Peer
from .peers.splash import Splash
from .problems import Problem
from .tiles import Work

Owed = Callable[[str, str, Work, float, float], dict[str, str]]
"""The columns that say what is owed and what was met: of a problem's name, a pass, its work, seconds and TFLOP/s."""

COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "peer": "peer",
    "computes": "computes",
    "ms": "ms",
    "tflops": "TFLOP/s",
    "gflops": "GFLOP/s",
    "splash_speedup": "splash is x times as fast",
    "floor_ms": "floor ms",
    "must": "must",
    "aim": "aim",
    "met": "met",
    "relative_error": "error",
    "note": "note",
}


@dataclass(frozen=True)
class Plan:
    """How to measure. rounds: on the CPU, repeat_ms: on the GPU. check: also compare answers with the reference, on
    about `scores` of its scores where that is given.

    lenient: a splash that fails is a row with a note, like what peers do wrong; else it raises.
    """

    device: torch.device
    directions: list[str]
    peers: list[Peer]
    rounds: int = 5
    repeat_ms: int = 100
    check: bool = True
    lenient: bool = False
    scores: int | None = None

    def words(self) -> list[str]:
        """The options for it, without peers and directions."""
        how = ["--rounds", self.rounds] if self.device.type == "cpu" else ["--repeat-ms", self.repeat_ms]
        return ["--device", self.device.type, *map(str, how)]


@dataclass
class Runner:
    """A peer at work on a case: its calls by direction, and their errors where they were compared."""

    peer: Peer
    computes: str
    calls: dict[str, Callable] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    note: str = ""


def measure_problem(problem: Problem, plan: Plan, console: Console, owed: Owed | None = None) -> list[dict]:
    """One row a peer and direction; what cannot run is told on the console. Nothing else stops the other peers.

    owed: puts what splash's softmax owes beside it.
    """
    case = Case(problem, plan.device)
    pairs = case.kept_pairs()
    sizes = case.sizes
    share = pairs / (sizes.batch * sizes.heads * sizes.rows * sizes.seq_len)
    found = check.exact(case, plan.scores, backward="bwd" in plan.directions) if plan.check else None
    console.print(f"{problem.name}: {share:.3%} of the scores kept{_sparsity(found)}", highlight=False)
    softmax = problem.normalizer.name in ("softmax", "softmax-sink")
    needed = tiles.work(case) if owed and softmax else {}
    runners = [runner for peer in plan.peers if (runner := _start(peer, case, found, plan, console))]
    rows = []
    for direction in plan.directions:
        rows += [
            failed_row(problem, direction, runner.peer.name, runner.note, plan)
            for runner in runners
            if plan.lenient and isinstance(runner.peer, Splash) and direction not in runner.calls
        ]
        ready = {runner.peer.name: runner for runner in runners if direction in runner.calls}
        seconds = measure.times(
            {name: runner.calls[direction] for name, runner in ready.items()},
            plan.device,
            plan.rounds,
            plan.repeat_ms,
            warm=True,
        )
        for name, runner in ready.items():
            flops = case.flops(pairs, direction)
            owing = {}
            if needed and name == "splash":
                owing = owed(problem.name, direction, needed[direction], seconds[name], flops / seconds[name] / 1e12)
            rows.append(
                {
                    "problem": problem.name,
                    "pass": direction,
                    "peer": name,
                    "computes": runner.computes,
                    "ms": report.number(seconds[name] * 1e3),
                    **speed(flops / seconds[name], plan.device),
                    "splash_speedup": f"{seconds[name] / seconds['splash']:.3g}" if "splash" in seconds else "",
                    **owing,
                    "relative_error": f"{runner.errors[direction]:.1e}" if direction in runner.errors else "",
                    "kept_share": f"{share:.6f}",
                    "nonzeros_a_row": _digits(found and found.nonzeros, 1),
                    "active_tiles": _digits(found and found.active_tiles, 4),
                    "command": _command(problem, name, direction, plan),
                }
            )
    return rows


def failed_row(problem: Problem, direction: str, peer: str, note: str, plan: Plan) -> dict:
    """The row of a call that gave no time."""
    command = _command(problem, peer, direction, plan)
    return {"problem": problem.name, "pass": direction, "peer": peer, "note": note, "command": command}


def _command(problem: Problem, peer: str, direction: str, plan: Plan) -> str:
    return report.command([*problem.words(), *_peers(peer), "--direction", direction, *plan.words()])


def speed(flops: float, device: torch.device) -> dict[str, str]:
    """The column of operations a second, in the unit of the device."""
    unit, size = ("tflops", 1e12) if device.type == "cuda" else ("gflops", 1e9)
    return {unit: report.number(flops / size)}


def _peers(name: str) -> list[str]:
    """A row of a peer needs splash beside it, which its ratio is taken against."""
    return ["--peer", "splash", *(["--peer", name] if name != "splash" else [])]


def _digits(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _sparsity(found: check.Exact | None) -> str:
    if found is None or found.nonzeros is None:
        return ""
    return f", {found.nonzeros:.1f} non-zeros a row, {found.active_tiles:.3f} of the kept 64x64 tiles active"


def _start(peer: Peer, case: Case, found: check.Exact | None, plan: Plan, console: Console) -> Runner | None:
    """Checks the peer and makes its calls; None where it cannot run. The console says what it did wrong."""
    reason = peer.why_not(case)
    if reason:
        console.print(f"  {peer.name}: not run: {reason}", highlight=False)
        return None
    computes = peer.computes(case)
    directions = list(plan.directions)
    if "bwd" in directions and peer.backward(case):
        console.print(f"  {peer.name}: no backward: {peer.backward(case)}", highlight=False)
        directions.remove("bwd")
    runner = Runner(peer, computes)
    try:
        call = peer.prepare(case)
        for direction in directions:
            _add(runner, direction, call, case, found)
    except NoKernelError as error:
        runner.note = f"no kernel: {error}"
    except Exception as error:  # a peer may fail in any way, the others still run
        if isinstance(peer, Splash) and not plan.lenient:
            raise
        wrong = isinstance(error, check.WrongResult)
        runner.note = str(error) if wrong else f"failed: {type(error).__name__}: {str(error)[:300]}"
    if runner.note:
        console.print(f"  {peer.name}: {runner.note}", highlight=False, markup=False)
    return runner


def _add(runner: Runner, direction: str, call: Callable, case: Case, found: check.Exact | None) -> None:
    if found is not None and runner.computes == "same":
        runner.errors |= check.compare(case, found, call, [direction])
    timed = forward_only(call, case) if direction == "fwd" else backward_only(call, case)
    # What cannot run fails here, where it stops no other peer. This is the warm-up, too.
    timed()
    runner.calls[direction] = timed


def forward_only(call: Callable, case: Case) -> Callable:
    def forward():
        with torch.no_grad():
            return call(*case.qkv)

    return forward


def backward_only(call: Callable, case: Case) -> Callable:
    """The backward of one forward call, again and again."""
    out = call(*case.qkv)
    leaves = [leaf for leaf in case.leaves if leaf.requires_grad]
    return lambda: torch.autograd.grad(out, leaves, case.grad, retain_graph=True, allow_unused=True)


def show(console: Console, rows: list[dict]) -> None:
    report.show(console, rows, COLUMNS)
