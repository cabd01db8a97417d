"""Tables about memory: the peak of a problem, and the largest batch under a limit."""

from __future__ import annotations

from rich.console import Console

from . import memory, report
from .problems import Problem
from .run import Plan

MEMORY_COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "peer": "peer",
    "peak_mib": "peak MiB",
    "call_mib": "of the call alone",
    "splash_share": "times that of splash",
    "note": "",
}
BATCH_COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "peer": "peer",
    "limit_gib": "limit GiB",
    "max_batch": "largest batch",
    "note": "",
}
PASSES = {"fwd": "fwd", "bwd": "fwd+bwd"}


def memory_rows(problem: Problem, plan: Plan, console: Console) -> list[dict]:
    """Peak memory of each peer, every figure from a fresh process."""
    rows = []
    for direction in plan.directions:
        peaks = {}
        for peer in plan.peers:
            with console.status(f"{problem.name}: {peer.name}, {PASSES[direction]}"):
                peaks[peer.name] = memory.peak(problem, peer.name, direction, plan.device)
        ours = peaks.get("splash")
        for name, peak in peaks.items():
            known = ours is not None and not ours.error and not peak.error and ours.call > 0
            rows.append(
                {
                    "problem": problem.name,
                    "pass": PASSES[direction],
                    "peer": name,
                    "peak_mib": "" if peak.error else f"{peak.all:.0f}",
                    "call_mib": "" if peak.error else f"{peak.call:.0f}",
                    "splash_share": f"{peak.call / ours.call:.3g}" if known else "",
                    "note": peak.error,
                    "command": _command("memory", problem, name, direction, plan),
                }
            )
    return rows


def batch_rows(problem: Problem, plan: Plan, limit_mib: float, console: Console) -> list[dict]:
    """The largest batch of each peer whose fresh process stays under the limit."""
    rows = []
    sizes = str(problem.sizes).split(maxsplit=1)[1]
    for direction in plan.directions:
        for peer in plan.peers:
            with console.status(f"{problem.label}: {peer.name}, {PASSES[direction]}"):
                largest, note = _largest_batch(problem, peer.name, direction, plan, limit_mib)
            command = _command("max-batch", problem, peer.name, direction, plan)
            rows.append(
                {
                    "problem": f"{problem.label} {sizes}",
                    "pass": PASSES[direction],
                    "peer": peer.name,
                    "limit_gib": f"{limit_mib / 1024:g}",
                    "max_batch": largest,
                    "note": note,
                    "command": f"{command} --memory-limit {limit_mib / 1024:g}",
                }
            )
    return rows


def _largest_batch(problem: Problem, peer: str, direction: str, plan: Plan, limit: float) -> tuple[int, str]:
    """(batch, note). Memory grows by the same amount with each entry, so two figures foretell the batch; two more
    processes, at it and at one more, prove it."""
    known: dict[int, memory.Peak] = {}

    def fits(batch: int) -> bool:
        if batch not in known:
            known[batch] = memory.peak(problem.with_sizes(batch=batch), peer, direction, plan.device)
        return not known[batch].error and known[batch].all <= limit

    if not fits(1):
        return 0, known[1].error or f"a batch of 1 takes {known[1].all:.0f} MiB"
    if not fits(2):
        return 1, known[2].error or f"a batch of 2 takes {known[2].all:.0f} MiB"
    first, more = known[1].all, max(known[2].all - known[1].all, 1e-3)
    batch = max(2, int(1 + (limit - first) / more))
    while not fits(batch):
        batch -= 1
    while fits(batch + 1):
        batch += 1
    note = known[batch + 1].error or f"{known[batch].all:.0f} MiB; one more takes {known[batch + 1].all:.0f} MiB"
    return batch, note


def _command(verb: str, problem: Problem, peer: str, direction: str, plan: Plan) -> str:
    words = [verb, *problem.words(), "--peer", "splash", "--direction", direction]
    if peer != "splash":
        words += ["--peer", peer]
    if verb == "max-batch":
        at = words.index("--batch")
        del words[at : at + 2]
    return report.command([*words, "--device", plan.device.type])
