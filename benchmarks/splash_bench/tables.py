"""Fixed tables: the ratios that the CPU owes, and long sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.console import Console

from . import memory, report
from .choices import Choice
from .families import FAMILIES
from .peers import PEERS
from .problems import Problem
from .run import Plan, measure_problem
from .sizes import Sizes

RATIO_COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "measure": "measure",
    "splash": "splash",
    "peer": "peer",
    "peer_value": "peer's",
    "ratio": "ratio",
    "wanted": "wanted",
}
LONG_COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "peer": "peer",
    "sparsity": "left out",
    "ms": "ms",
    "tflops": "TFLOP/s",
    "gflops": "GFLOP/s",
    "dense_ms": "dense ms",
    "speedup": "speed-up",
    "relative_error": "error",
}
KEPT = ("problem", "pass", "peer", "ms", "tflops", "gflops", "relative_error")
MEMORY_LIMIT_MIB = 2048


@dataclass(frozen=True)
class Comparison:
    """`problem` on splash against `peer` on the same tensors; `wanted` is the smallest accepted ratio of times."""

    name: str
    problem: Problem
    peer: str
    wanted: float
    directions: tuple[str, ...] = ("fwd", "bwd")


def _problem(family: str, name: str, sizes: Sizes, normalizer: Choice | None = None, **numbers) -> Problem:
    kind = FAMILIES[family]
    label = f"{name} B{sizes.batch} H{sizes.heads} D{sizes.head_dim} {sizes.dtype}"
    return Problem(kind, kind.defaults() | numbers, sizes, normalizer or Choice(kind.normalizer), name=label)


def _compared(name: str, family: str, length: int, wanted: float, **numbers) -> Comparison:
    name = f"{name} N{length}"
    return Comparison(name, _problem(family, name, Sizes(seq_len=length), **numbers), "sdpa-causal", wanted)


def _decode(name: str, length: int, wanted: float, family: str = "dense", **fields) -> Comparison:
    """One query at the end of a cache, against SDPA over all of it."""
    own = {name: fields.pop(name) for name in tuple(fields) if name not in Sizes.__dataclass_fields__}
    sizes = Sizes(**{"seq_len": length, "queries": 1, **fields})
    kv = "" if sizes.kv_heads == sizes.heads else f" Hkv{sizes.kv_heads}"
    name = f"{name} Nq1 N{length}"
    label = f"{name} B{sizes.batch} H{sizes.heads}{kv} D{sizes.head_dim} {sizes.dtype}"
    problem = replace(_problem(family, name, sizes, **own), name=label)
    return Comparison(label, problem, "sdpa-causal", wanted, ("fwd",))


def _decodes():
    """Heads, key/value heads, D and dtype of caches; what a window need not read is time that it must not take."""
    for length in (4096, 32768, 131072):
        yield _decode("decode", length, 1)
    yield _decode("decode", 32768, 1, head_dim=128)
    for length in (4096, 32768):
        yield _decode("decode", length, 1, heads=32, kv_heads=32)
        yield _decode("decode", length, 1, heads=32, kv_heads=8, head_dim=128)
    yield _decode("decode", 32768, 1, dtype="bfloat16")
    yield _decode("decode", 32768, 1, heads=32, kv_heads=8, head_dim=128, dtype="float16")
    yield _decode("decode", 8192, 1, batch=8, heads=16, kv_heads=4)
    yield _decode("window1024 decode", 131072, 30, "window", window=1024)


COMPARISONS = (
    _compared("causal", "dense", 4096, 0.5),
    _compared("window256-causal", "window", 8192, 6, window=256),
    _compared("blockdiag128-causal", "block-diagonal", 8192, 12, block=128),
    _compared("sink16+window64", "streaming", 8192, 12, sink=16, window=64),
    _compared("dilated8 window64x8-causal", "dilated", 8192, 8, window=64, dilation=(8,)),
    _compared("bigbird b64", "bigbird", 8192, 4, block=64),
    Comparison(
        "entmax1.5 causal N4096",
        _problem("entmax", "entmax1.5 causal N4096", Sizes(seq_len=4096), Choice("entmax", 1.5)),
        "splash-dense",
        0.25,
        ("fwd",),
    ),
    *_decodes(),
)
MEMORY = Comparison(
    "window256-causal N131072",
    _problem("window", "window256-causal N131072", Sizes(heads=4, kv_heads=4, seq_len=131072), window=256),
    "limit",
    1,
)


def cpu_ratios(only: str, plan: Plan, console: Console) -> list[dict]:
    """Rows with `ratio` and `wanted`; ratios above 1: splash is the faster one, or below the limit."""
    rows = []
    for comparison in COMPARISONS:
        if only in comparison.name:
            rows += _ratios(comparison, plan, console)
    if only in MEMORY.name:
        rows.append(_memory_ratio(plan))
    return rows


def _ratios(comparison: Comparison, plan: Plan, console: Console) -> list[dict]:
    peers = [PEERS["splash"], PEERS[comparison.peer]]
    own = Plan(plan.device, list(comparison.directions), peers, plan.rounds)
    found = {(row["pass"], row["peer"]): row for row in measure_problem(comparison.problem, own, console)}
    label = {"sdpa-causal": "causal SDPA", "splash-dense": "splash softmax"}[comparison.peer]
    for direction in comparison.directions:
        ours, theirs = (found[direction, peer.name] for peer in peers)
        yield {
            "problem": comparison.problem.name,
            "pass": direction,
            "measure": "ms",
            "splash": ours["ms"],
            "peer": label,
            "peer_value": theirs["ms"],
            "ratio": theirs["splash_speedup"],
            "wanted": comparison.wanted,
            "splash_gflops": ours["gflops"],
            "kept_share": ours["kept_share"],
            "relative_error": ours["relative_error"],
            "command": _command(comparison, plan),
        }


def _memory_ratio(plan: Plan) -> dict:
    peak = memory.peak(MEMORY.problem, "splash", "bwd", plan.device)
    if peak.error:
        raise RuntimeError(f"{MEMORY.problem.name}: {peak.error}")
    return {
        "problem": MEMORY.problem.name,
        "pass": "fwd+bwd",
        "measure": "peak MiB of the process",
        "splash": f"{peak.all:.0f}",
        "peer": MEMORY.peer,
        "peer_value": MEMORY_LIMIT_MIB,
        "ratio": f"{MEMORY_LIMIT_MIB / peak.all:.3g}",
        "wanted": MEMORY.wanted,
        "command": _command(MEMORY, plan),
    }


def _command(comparison: Comparison, plan: Plan) -> str:
    return report.command(["cpu-ratios", "--only", comparison.name, "--rounds", plan.rounds])


def long_problems(sizes: Sizes) -> dict[str, Problem]:
    """{label: problem} of the table of long sequences; the first is what the others are compared with."""
    return {
        "dense causal": _problem("dense", "dense causal", sizes),
        "window 1024": _problem("window", "window 1024", sizes, window=1024),
        "bigbird": _problem("bigbird", "bigbird", sizes, block=64),
        "dilated 512x8": _problem("dilated", "dilated 512x8", sizes, window=512, dilation=(8,)),
    }


def long_rows(sizes: Sizes, plan: Plan, words: list[str], console: Console) -> list[dict]:
    """splash over every problem; `speedup` is over the fastest dense peer, which runs once."""
    rows = []
    dense: dict[str, tuple[float, str]] = {}
    for label, problem in long_problems(sizes).items():
        peers = plan.peers if label == "dense causal" else [PEERS["splash"]]
        own = Plan(plan.device, plan.directions, peers, plan.rounds, plan.repeat_ms)
        found = measure_problem(problem, own, console)
        if label == "dense causal":
            for row in found:
                best = dense.get(row["pass"])
                if best is None or float(row["ms"]) < best[0]:
                    dense[row["pass"]] = float(row["ms"]), row["peer"]
        for row in found:
            milliseconds, peer = dense[row["pass"]]
            rows.append(
                {
                    **{key: row[key] for key in KEPT if key in row},
                    "sparsity": f"{1 - float(row['kept_share']):.4%}",
                    "kept_share": row["kept_share"],
                    "dense_ms": milliseconds,
                    "dense_peer": peer,
                    "speedup": f"{milliseconds / float(row['ms']):.3g}",
                    "command": report.command(words),
                }
            )
    return rows
